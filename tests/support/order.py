"""Which files of the suite begin first: with a worker for each core, a long one that began last would be waited for."""

LONGEST_FIRST = (
    "security/test_advisories.py",
    "serving/test_page.py",
    "security/test_faults_beside_neighbours.py",
    "bench/load/test_measure.py",
    "house/test_documents.py",
    "runtime/test_architectures.py",
    "serving/test_lifecycle.py",
    "serving/tools/test_families.py",
    "engine/test_language_model.py",
    "security/test_soak.py",
    "checkpoint/test_mutated_files.py",
    "engine/test_kernel_paths.py",
    "kernels/test_attention.py",
    "engine/test_preparing.py",
    "bench/test_compare.py",
    "serving/test_open_embeddings.py",
    "checkpoint/test_transformers.py",
    "engine/speculation/test_acceptance.py",
    "serving/test_tracing.py",
)
"""Files of four seconds and more on two idle cores, below tests/, the longest first."""


def place_of(file: str) -> int:
    """Where a file below tests/ stands in the order; behind all of these where it is none of them."""
    return LONGEST_FIRST.index(file) if file in LONGEST_FIRST else len(LONGEST_FIRST)

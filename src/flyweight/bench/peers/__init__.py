"""Engines that a model of ours can be compared with: one file per engine, each registered under its name.

No peer is a dependency: an adapter starts an executable, or a Python of another environment.
"""

from flyweight.bench.peers import flyweight, llama_cpp, openvino, vllm  # noqa: F401  (they register themselves)
from flyweight.bench.peers.base import PEERS, Peer, Session, Setting

__all__ = ["PEERS", "Peer", "Session", "Setting"]

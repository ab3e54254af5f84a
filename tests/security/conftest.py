"""One server of the demo model with two keys, in a process of its own, for all checks."""

import pytest

from flyweight.serving.doctor import Subject, package_folder
from flyweight.serving.doctor.own_server import own_server


@pytest.fixture(scope="session")
def subject(tmp_path_factory):
    with own_server() as (target, process):
        yield Subject(
            package=package_folder(), work=tmp_path_factory.mktemp("doctor"), server=target, process=process.pid
        )
        target.close()

"""Requests that schemathesis makes from the description of the service, valid and not.

LOOKALIKE_REQUESTS=700 makes some 10,000.
"""

import os
import shutil

import pytest
import schemathesis
from conversation import listening, small_service
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from lookalike.serving.service import Limits

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def description(model, gallery, tmp_path_factory):
    """The description of a server that listens, with an index of its own."""
    folder = tmp_path_factory.mktemp("described") / "index"
    shutil.copytree(gallery, folder)
    service = small_service(model, folder, Limits(pixels=10**6, threads=2))
    with listening(service) as port:
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


schema = schemathesis.pytest.from_fixture("description")


@schema.parametrize()
@settings(
    max_examples=int(os.environ.get("LOOKALIKE_REQUESTS", "10")),
    phases=(Phase.explicit, Phase.generate),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_a_mistake_of_ours(case):
    case.call_and_validate(checks=CHECKS, timeout=30)

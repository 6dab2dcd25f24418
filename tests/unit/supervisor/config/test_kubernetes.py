"""Which variables Kubernetes sets, and which are settings all the same."""

import pytest

from moorage.supervisor.config.kubernetes import service_variables

# As in a pod beside a Service named `moorage` with two ports.
SERVICE = {
    "MOORAGE_SERVICE_HOST": "10.0.0.11",
    "MOORAGE_SERVICE_PORT": "8765",
    "MOORAGE_SERVICE_PORT_WS": "8765",
    "MOORAGE_PORT": "tcp://10.0.0.11:8765",
    "MOORAGE_PORT_8765_TCP": "tcp://10.0.0.11:8765",
    "MOORAGE_PORT_8765_TCP_PROTO": "tcp",
    "MOORAGE_PORT_8765_TCP_PORT": "8765",
    "MOORAGE_PORT_8765_TCP_ADDR": "10.0.0.11",
}


def test_all_variables_of_a_service_are_recognized():
    assert service_variables(SERVICE, "MOORAGE_") == frozenset(SERVICE)


def test_so_are_those_of_a_service_whose_name_begins_like_ours():
    control = {name.replace("MOORAGE_", "MOORAGE_CONTROL_"): text for name, text in SERVICE.items()}
    assert service_variables(control, "MOORAGE_") == frozenset(control)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MOORAGE_PORT", "9000"),
        ("MOORAGE_HOST", "0.0.0.0"),
        ("MOORAGE_CONTROL_PORT", "9001"),
        ("MOORAGE_PROT", "9000"),
    ],
)
def test_a_setting_beside_them_stays_one(name, value):
    assert service_variables({**SERVICE, name: value}, "MOORAGE_") == frozenset(SERVICE) - {name}


@pytest.mark.parametrize("missing", ["MOORAGE_SERVICE_HOST", "MOORAGE_SERVICE_PORT"])
def test_what_is_not_a_whole_service_is_none(missing):
    rest = {name: text for name, text in SERVICE.items() if name != missing}
    assert not service_variables(rest, "MOORAGE_")


def test_other_services_are_nothing_to_us():
    other = {name.replace("MOORAGE", "POSTGRES"): text for name, text in SERVICE.items()}
    assert not service_variables(other, "MOORAGE_")

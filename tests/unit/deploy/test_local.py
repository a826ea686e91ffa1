"""What a local stack makes of the settings that were saved."""

from __future__ import annotations

from lbctl.deploy import Address
from lbctl.deploy.local import _new

WANTED = {
    "--port": Address("127.0.0.1", 8080),
    "--admin-port": Address("127.0.0.1", 9900),
    "--tls-port": Address("127.0.0.1", 8443),
}


def test_what_the_running_lb_listens_on_itself_is_not_new() -> None:
    before = {"bind": "127.0.0.1", "port": 8080, "admin_bind": "127.0.0.1", "admin_port": 9901}
    assert list(_new(WANTED, before)) == ["--admin-port", "--tls-port"]
    assert list(_new(WANTED, before | {"tls_dir": "/certs", "tls_port": 8443})) == ["--admin-port"]
    assert _new(WANTED, None) == WANTED


def test_a_setting_that_was_not_saved_is_at_its_default() -> None:
    assert list(_new(WANTED, {"port": 8081})) == ["--port", "--tls-port"]
    assert list(_new(WANTED, {"tls_dir": "/certs"})) == []

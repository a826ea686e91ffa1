from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from benchmarks.capacity import crowd

if TYPE_CHECKING:
    from pathlib import Path


def test_everybody_has_an_address_of_his_own() -> None:
    addresses = [crowd.address(number) for number in range(crowd.MOST)]
    assert len(set(addresses)) == crowd.MOST
    assert all(ip_address(address).is_loopback for address in addresses)


def test_a_backend_takes_lists() -> None:
    one = crowd.backend(250)
    assert (one.name, one.ip, one.publish) == ("backend-251", "127.79.1.1", True)


def test_nginx_listens_for_all_of_them_and_takes_lists_on_one_port_only(tmp_path: Path) -> None:
    text = crowd.configuration(tmp_path, 3)
    for number in range(3):
        assert f"listen {crowd.address(number)}:8080;" in text
        assert f"listen {crowd.address(number)}:9000;" in text
    public, admin = text.split("server {")[1:]
    assert "dav_methods" not in public
    assert "dav_methods PUT" in admin
    assert f"root {tmp_path}/www/$server_addr;" in text


@pytest.mark.parametrize("words", [[], ["0"], ["x"], ["-1"], ["10001"], ["1", "2"]])
def test_what_is_no_number_of_backends_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert crowd.main(words) == 2
    assert "a number from 1 to 10000" in capsys.readouterr().err

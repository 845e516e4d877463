"""A real mosquitto for tests: on a free port, with passwords, TLS and ACLs; stopped, restarted and killed at will."""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

__all__ = ["Broker", "Certificates", "Collector", "Received", "free_port", "mosquitto", "wait_for"]

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], object], timeout: float = 10.0, what: str = "") -> None:
    """Wait until `condition` is true.

    Raises:
        AssertionError: if it does not become so within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s: {what or condition}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Certificates:
    """A throw-away CA, a server certificate for localhost and a client certificate (PEM files)."""

    ca: Path
    cert: Path
    key: Path
    client_cert: Path
    client_key: Path

    @classmethod
    def make(cls, folder: Path, host: str = "localhost") -> Certificates:
        """Write them under `folder`; the server's is for `host` (and 127.0.0.1 when that is localhost)."""
        folder.mkdir(parents=True, exist_ok=True)
        now = dt.datetime.now(dt.UTC)

        def issue(
            name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None
        ) -> tuple[x509.Name, ec.EllipticCurvePrivateKey, x509.Certificate]:
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
            authority, signer = issuer or (subject, key)
            names: list[x509.GeneralName] = [x509.DNSName(name)]
            if name == "localhost":
                names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(authority)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - dt.timedelta(hours=1))
                .not_valid_after(now + dt.timedelta(days=1))
                .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
                .add_extension(x509.SubjectAlternativeName(names), False)
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
                )
                .add_extension(
                    x509.KeyUsage(
                        True,
                        False,
                        False,
                        False,
                        False,
                        issuer is None,
                        issuer is None,
                        False,
                        False,
                    ),
                    True,
                )
            )
            return subject, key, builder.sign(signer, hashes.SHA256())

        def write(name: str, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate) -> None:
            (folder / f"{name}.crt").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            (folder / f"{name}.key").write_bytes(pem)

        ca_name, ca_key, ca_cert = issue("gridwatch test CA", None)
        write("ca", ca_key, ca_cert)
        for name, common in (("server", host), ("client", "gridwatch-client")):
            _, key, cert = issue(common, (ca_name, ca_key))
            write(name, key, cert)
        return cls(
            ca=folder / "ca.crt",
            cert=folder / "server.crt",
            key=folder / "server.key",
            client_cert=folder / "client.crt",
            client_key=folder / "client.key",
        )


@dataclass(frozen=True)
class Received:
    """One message as a subscriber got it."""

    topic: str
    payload: bytes
    retain: bool
    qos: int


class Collector:
    """A subscriber with a session that outlives the broker's restarts; keeps everything in order."""

    def __init__(
        self,
        port: int,
        pattern: str,
        *,
        client_id: str,
        username: str | None = None,
        password: str | None = None,
        persistent: bool = True,
    ) -> None:
        self.messages: list[Received] = []
        self._arrived = threading.Condition()
        self._ready = threading.Event()
        self._pattern = pattern
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=not persistent
        )
        if username is not None:
            self._client.username_pw_set(username, password)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(pattern, qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._ready.wait(5), f"cannot subscribe to {pattern}"

    def _on_message(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        with self._arrived:
            self.messages.append(
                Received(message.topic, bytes(message.payload), message.retain, message.qos)
            )
            self._arrived.notify_all()

    def payloads(self) -> list[bytes]:
        """The payloads so far, in order of arrival."""
        with self._arrived:
            return [message.payload for message in self.messages]

    def wait(
        self, enough: Callable[[list[Received]], object], timeout: float = 10.0
    ) -> list[Received]:
        """Wait until `enough(messages)` is true and give the messages so far."""
        with self._arrived:
            done = self._arrived.wait_for(lambda: enough(self.messages), timeout)
            assert done, (
                f"{self._pattern}: not within {timeout} s, got {len(self.messages)} messages"
            )
            return list(self.messages)

    def wait_count(self, count: int, timeout: float = 20.0) -> list[Received]:
        """Wait for so many messages, repeats included."""
        return self.wait(lambda messages: len(messages) >= count, timeout)

    def close(self) -> None:
        """Unhook it from the broker."""
        self._client.disconnect()
        self._client.loop_stop()


class Broker:
    """A mosquitto process; `port` speaks MQTT, with TLS if `certificates` were given."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        certificates: Certificates | None = None,
        client_certificates: bool = False,
        extra: Sequence[str] = (),
        config: str | None = None,
    ) -> None:
        assert MOSQUITTO is not None
        self.port = port or free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._collectors: list[Collector] = []
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 100000",
            f"log_dest file {folder}/mosquitto.log",
            f"allow_anonymous {'false' if users else 'true'}",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it drops to a user that cannot read pytest's folder
        if users:
            for user, password in users.items():
                subprocess.run(
                    [
                        "mosquitto_passwd",
                        "-b",
                        *([] if (folder / "passwd").exists() else ["-c"]),
                        str(folder / "passwd"),
                        user,
                        password,
                    ],
                    check=True,
                    capture_output=True,
                )
            lines.append(f"password_file {folder}/passwd")
        if acl is not None:
            (folder / "acl").write_text(acl)
            lines.append(f"acl_file {folder}/acl")
        if certificates is not None:
            lines += [
                f"cafile {certificates.ca}",
                f"certfile {certificates.cert}",
                f"keyfile {certificates.key}",
                f"require_certificate {str(client_certificates).lower()}",
            ]
        self.config = folder / "mosquitto.conf"
        self._text = config or "\n".join([*lines, *extra]) + "\n"
        self.write_config()

    def write_config(self) -> None:
        """Write its configuration, e.g. again after another broker used the folder."""
        self.config.write_text(self._text)

    def start(self) -> None:
        """Start it and wait until it listens."""
        assert self._process is None, "already running"
        assert MOSQUITTO is not None
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"mosquitto ended: {self.log()[-800:]}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(listens, 10, "mosquitto listens")

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """End it in order: sessions and retained messages are on disk afterwards."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: it saves nothing."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP: read the ACL and the passwords anew."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def log(self) -> str:
        """What it wrote so far."""
        path = self._folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def collect(
        self,
        pattern: str = "#",
        *,
        username: str | None = None,
        password: str | None = None,
        persistent: bool = True,
    ) -> Collector:
        """A subscriber to `pattern`, closed with the broker."""
        collector = Collector(
            self.port,
            pattern,
            client_id=f"collector-{len(self._collectors)}",
            username=username,
            password=password,
            persistent=persistent,
        )
        self._collectors.append(collector)
        return collector

    def publish(
        self,
        topic: str,
        payload: bytes | str,
        *,
        qos: int = 1,
        retain: bool = False,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        """Publish one message (3.1.1) and wait for its PUBACK."""
        client = paho.Client(CallbackAPIVersion.VERSION2)
        if username is not None:
            client.username_pw_set(username, password)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(5)
        finally:
            client.disconnect()
            client.loop_stop()

    def retained(
        self, pattern: str = "#", *, username: str | None = None, password: str | None = None
    ) -> dict[str, bytes]:
        """The retained messages under `pattern`: subscribes anew and takes what comes flagged as retained."""
        collector = Collector(
            self.port, pattern, client_id="", username=username, password=password, persistent=False
        )
        try:
            time.sleep(0.2)  # MQTT does not say when the last retained message was sent
            return {m.topic: m.payload for m in list(collector.messages) if m.retain}
        finally:
            collector.close()

    def close(self) -> None:
        """Close the collectors and end the process."""
        for collector in self._collectors:
            collector.close()
        self.stop()


@contextmanager
def mosquitto(
    folder: Path,
    *,
    start: bool = True,
    port: int | None = None,
    users: Mapping[str, str] | None = None,
    acl: str | None = None,
    certificates: Certificates | None = None,
    client_certificates: bool = False,
    extra: Sequence[str] = (),
    config: str | None = None,
) -> Iterator[Broker]:
    """A mosquitto of its own in `folder`; the test is skipped, loudly, where mosquitto is not installed.

    Args:
        config: The text of its configuration, instead of what the options say; `port` must be in it.
    """
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    broker = Broker(
        folder,
        port=port,
        users=users,
        acl=acl,
        certificates=certificates,
        client_certificates=client_certificates,
        extra=extra,
        config=config,
    )
    if start:
        broker.start()
    try:
        yield broker
    finally:
        broker.close()

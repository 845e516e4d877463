"""One MQTT connection that keeps trying: back-off, protocol fall-back, reasons in words.

paho-mqtt's own reconnecting and queueing are not used. A client lives for one connection only, so that nothing is
ever stored in its memory queue, and every failure passes through one place that can name it.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import paho.mqtt.client as paho
import structlog
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions
from pydantic import BeforeValidator, Field, SecretStr

from pipeline.exceptions import ConfigError
from pipeline.units import ByteSize, Duration, Settings

__all__ = ["BrokerSettings", "Connection", "Incoming", "TlsSettings", "Token", "Will"]

log = structlog.get_logger(__name__)

CONNECT_TIMEOUT_S = 5.0  # TCP, TLS and CONNACK each; a broker that needs longer is as good as away
STABLE_AFTER_S = 10.0  # a connection that lasted this long was a good one: the back-off starts anew
LOOP_S = 1.0  # how long the network thread waits in select(); publish() interrupts it through a socket pair

Token: TypeAlias = tuple[int, int]
"""Connection number and packet identifier of a message on its way."""


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise


class TlsSettings(Settings):
    """TLS to the broker.

    Attributes:
        ca: PEM file of the authority to trust; None means the system's.
        cert: PEM file of our certificate, where the broker asks for one.
        key: PEM file of its key; None when the key is in `cert`.
        verify: Whether the broker's certificate and host name are checked. Leave it true.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """A client context from the files as they are now (certificates get renewed while we run).

        Raises:
            ConfigError: if a file is missing or is no PEM.
        """
        for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if path is not None and not path.is_file():
                raise ConfigError(f"broker.tls.{name}: {path} is not a file; expected a PEM file")
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.sslsocket_class = _TlsSocket
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ConfigError(
                f"broker.tls: cannot use ca {self.ca}, cert {self.cert}, key {self.key}: {reason}"
            ) from error
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class BrokerSettings(Settings):
    """The broker and how to speak to it.

    Attributes:
        host: Name or address.
        port: TCP port; 1883 plain, 8883 TLS by custom.
        protocol: MQTT ``5``, ``3.1.1`` or ``auto`` (5 first, then 3.1.1).
        username: With `password`, where the broker asks for them. The shipped ACL knows people by it.
        password: Write ``password_file:`` or ``${VAR}`` in cameras.yaml, not the password itself.
        tls: Certificates; None means no TLS.
        client_id: None means ``gridwatch-{site}-{host}``. Two clients of one id throw each other out.
        keepalive: A broker that is silent for 1.5 times this long counts as gone.
        session_expiry: How long the broker keeps our subscriptions and the commands that wait for us.
        max_inflight: Messages that may wait for their PUBACK at a time.
        max_message: Larger messages are not sent. Keep it at or below the broker's limit: under MQTT 3.1.1 a broker
            cannot say that it dropped one.
        retry_min: First wait between attempts to connect.
        retry_max: Longest wait between attempts.
    """

    host: str = "localhost"
    port: int = Field(default=1883, ge=1, le=65535)
    # YAML reads an unquoted 5 as a number
    protocol: Annotated[Literal["auto", "5", "3.1.1"], BeforeValidator(str)] = "auto"
    username: str | None = None
    password: SecretStr | None = None
    tls: TlsSettings | None = None
    client_id: str | None = Field(default=None, min_length=1)
    keepalive: Annotated[Duration, Field(ge=5, le=65535)] = 30.0
    session_expiry: Annotated[Duration, Field(le=0xFFFFFFFE)] = 7 * 86400.0
    max_inflight: int = Field(default=50, ge=1, le=1000)
    max_message: ByteSize = 1024 * 1024
    retry_min: Annotated[Duration, Field(gt=0)] = 1.0
    retry_max: Annotated[Duration, Field(gt=0)] = 30.0

    @property
    def address(self) -> str:
        """``host:port``, for logs."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us, retained, when we vanish."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Incoming:
    """A message from the broker.

    Attributes:
        topic: Where it was published.
        payload: Its bytes.
        retain: Whether it was retained, or published to be.
        acknowledge: Tells the broker that it was dealt with; until then it comes again after a reconnect.
    """

    topic: str
    payload: bytes
    retain: bool
    acknowledge: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _End:
    """Why a connection ended. `try_other`: before its CONNACK, as brokers do that dislike the protocol version."""

    reason: str
    lasted_s: float = 0.0
    try_other: bool = False


class Connection:
    """Keeps one client connected. Callbacks run on its network thread and must return soon.

    Args:
        settings: The broker.
        client_id: Who we are to the broker.
        will: Published by the broker when we vanish without a word.
        clean: Whether to begin with an empty session (readers); else the broker keeps one for `session_expiry`.
        subscriptions: Topic filters, subscribed at QoS 1 on every connect.
        on_up: Called when connected and the subscriptions are asked for.
        on_down: Called when the connection is lost, with the number that `Token` carries.
        on_message: Called with every message; it acknowledges.
        on_acknowledged: Called with the token of a QoS 1 message and None, or the reason why the broker refused it.

    Attributes:
        connected: Set while messages can be sent.
        number: Of the present or last connection; the first half of a `Token`.
        failures: Attempts that failed since the last connection.
        last_reason: Why there is no connection, in words.
        protocol: Version of the present or last connection.
        receive_maximum: How many QoS 1 messages may be in flight.
        maximum_packet: Size in bytes of the largest packet that may be sent.
        session_kept: Whether the broker still knew us at the present or last connect; a new or wiped one does not.

    Raises:
        ConfigError: if the TLS files cannot be used.
    """

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        client_id: str,
        will: Will | None = None,
        clean: bool = False,
        subscriptions: Sequence[str] = (),
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[int], None] = lambda _number: None,
        on_message: Callable[[Incoming], None] = lambda _message: None,
        on_acknowledged: Callable[[Token, ReasonCode | None], None] = lambda _token, _reason: None,
    ) -> None:
        self.settings = settings
        self.client_id = client_id
        self.connected = threading.Event()
        self.failures = 0
        self.last_reason: str | None = None
        self.protocol: Literal["5", "3.1.1"] | None = None
        self.receive_maximum = settings.max_inflight
        self.maximum_packet = settings.max_message
        self.session_kept = False
        self._will = will
        self._clean = clean
        self._subscriptions = tuple(subscriptions)
        self._on_up = on_up
        self._on_down = on_down
        self._on_message = on_message
        self._on_acknowledged = on_acknowledged
        self._client: paho.Client | None = None
        self.number = 0
        self._closing = threading.Event()
        self._reasons_logged: set[str] = set()
        self._down_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{client_id}", daemon=True)
        if settings.tls is not None:
            settings.tls.context()  # wrong files are the operator's to mend now, not a failure to retry

    def start(self) -> None:
        """Begin to connect; returns at once, whether or not there is a broker."""
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Disconnect in order and end the thread; waits at most `timeout` seconds."""
        self._closing.set()
        client = self._client
        if client is not None:
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool, expiry_s: float | None = None
    ) -> Token | None:
        """Hand a message to the connection that is up now.

        Args:
            topic: Full topic.
            payload: Bytes.
            qos: 0 or 1; a 1 is followed by `on_acknowledged` or by `on_down`.
            retain: Whether the broker keeps it.
            expiry_s: The broker drops it when undelivered for this long, in seconds (MQTT 5 only).

        Returns:
            The message's token; None when there is no connection, and then nothing was or will be sent.
        """
        client, number = self._client, self.number
        if client is None or not self.connected.is_set():
            return None
        properties = None
        if expiry_s is not None and self.protocol == "5":
            properties = _properties(PacketTypes.PUBLISH)
            properties.MessageExpiryInterval = max(1, round(expiry_s))
        info = client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return (number, info.mid) if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    # -- the network thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attempt = 0
        while not self._closing.is_set():
            versions: deque[Literal["5", "3.1.1"]] = (
                deque(["5", "3.1.1"])
                if self.settings.protocol == "auto"
                else deque([self.settings.protocol])
            )
            end = self._session(versions.popleft())
            while end.try_other and versions and not self._closing.is_set():
                end = self._session(versions.popleft())
            if self._closing.is_set():
                return
            self._note_failure(end)
            attempt = 0 if end.lasted_s >= STABLE_AFTER_S else attempt + 1
            longest = min(self.settings.retry_max, self.settings.retry_min * 2 ** min(attempt, 16))
            self._closing.wait(longest * random.uniform(0.5, 1.0))

    def _session(self, version: Literal["5", "3.1.1"]) -> _End:
        """Connect once with this protocol version and stay until the connection ends; why it did."""
        self.number += 1
        number = self.number
        ended: list[str] = []
        answered = threading.Event()
        client = self._build(version, number, answered, ended)
        properties = None
        if version == "5":
            properties = _properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = (
                0 if self._clean else int(self.settings.session_expiry)
            )
        up_since = None
        try:
            client.connect(
                self.settings.host,
                self.settings.port,
                int(self.settings.keepalive),
                # MQTT 3.1.1 takes its clean flag from the constructor and refuses another here.
                clean_start=self._clean if version == "5" else paho.MQTT_CLEAN_START_FIRST_ONLY,
                properties=properties,
            )
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while not answered.is_set():
                if client.loop(0.2) != MQTTErrorCode.MQTT_ERR_SUCCESS and not answered.is_set():
                    hint = (
                        "it may ask for a client certificate" if self.settings.tls else "is it TLS"
                    )
                    return _End(
                        f"it closed the connection before it answered ({hint})", try_other=True
                    )
                if time.monotonic() > deadline:
                    return _End(f"no CONNACK within {CONNECT_TIMEOUT_S:g} s", try_other=True)
            if ended:
                return _End(ended[0], try_other="protocol" in ended[0])
            up_since = time.monotonic()
            self._client, self.protocol = client, version
            if self._closing.is_set():
                client.disconnect()
            else:
                self._note_recovery(version)
                self.connected.set()
                self._on_up()
            while client.loop(LOOP_S) == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass
            reason = ended[0] if ended else "the connection was lost"
        except ConfigError as error:
            reason = str(error)
        except (OSError, ValueError) as error:
            reason = _in_words(error, self.settings)
        except Exception as error:  # noqa: BLE001  (paho's decoder raises various things on garbage)
            reason = f"it does not speak MQTT properly: {type(error).__name__}: {error}"
        finally:
            self.connected.clear()
            self._client = None
            # They refer to the client: without this cycle its sockets close now and not at some collection.
            client.on_connect = client.on_subscribe = client.on_disconnect = None
            client.on_publish = client.on_message = None
            if up_since is not None:
                self._on_down(number)
        return _End(reason, time.monotonic() - up_since if up_since is not None else 0.0)

    def _build(
        self, version: str, number: int, answered: threading.Event, ended: list[str]
    ) -> paho.Client:
        five = version == "5"
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self.client_id,
            clean_session=None if five else self._clean,
            protocol=MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the window is ours; paho must not queue
        # Tells paho that somebody else's thread runs the loop: publish() then only wakes it and never writes itself.
        client.on_socket_register_write = lambda *_: None
        if self.settings.username is not None:
            password = self.settings.password
            client.username_pw_set(
                self.settings.username, password.get_secret_value() if password else None
            )
        if self.settings.tls is not None:
            client.tls_set_context(self.settings.tls.context())
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=1, retain=True)

        def on_connect(
            _client: paho.Client,
            _userdata: object,
            flags: paho.ConnectFlags,
            reason: ReasonCode,
            properties: Properties | None,
        ) -> None:
            if reason.is_failure:
                ended.append(_refusal_in_words(reason, self.settings))
            else:
                limit = getattr(properties, "ReceiveMaximum", None)
                self.receive_maximum = min(self.settings.max_inflight, limit or 65535)
                packet = getattr(properties, "MaximumPacketSize", None)
                self.maximum_packet = min(self.settings.max_message, packet or 1 << 30)
                self.session_kept = flags.session_present
                if self._subscriptions:
                    client.subscribe(self._filters(five))
            answered.set()

        def on_subscribe(
            _client: paho.Client,
            _userdata: object,
            _mid: int,
            reasons: list[ReasonCode],
            _properties: Properties | None,
        ) -> None:
            for pattern, reason in zip(self._subscriptions, reasons, strict=False):
                if reason.is_failure:
                    log.warning("broker refuses subscription", topic=pattern, reason=str(reason))

        def on_disconnect(
            _client: paho.Client,
            _userdata: object,
            _flags: paho.DisconnectFlags,
            reason: ReasonCode,
            _properties: Properties | None,
        ) -> None:
            if not ended:
                ended.append(_loss_in_words(reason, self.client_id))

        def on_publish(
            _client: paho.Client,
            _userdata: object,
            mid: int,
            reason: ReasonCode,
            _properties: Properties,
        ) -> None:
            self._on_acknowledged((number, mid), reason if reason.is_failure else None)

        def on_message(_client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
            mid, qos = message.mid, message.qos
            try:
                topic = message.topic
            except UnicodeDecodeError:
                client.ack(mid, qos)
                return

            def acknowledge() -> None:
                client.ack(mid, qos)

            self._on_message(
                Incoming(topic, bytes(message.payload), bool(message.retain), acknowledge)
            )

        client.on_connect = on_connect
        client.on_subscribe = on_subscribe
        client.on_disconnect = on_disconnect
        client.on_publish = on_publish
        client.on_message = on_message
        return client

    def _filters(self, five: bool) -> list[tuple[str, int]] | list[tuple[str, SubscribeOptions]]:
        if not five:
            return [(pattern, 1) for pattern in self._subscriptions]
        # retainHandling 1: what is retained comes once per session, not with every reconnect.
        return [
            (pattern, SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=1))
            for pattern in self._subscriptions
        ]

    def _note_failure(self, end: _End) -> None:
        if end.lasted_s:
            self._down_since = time.monotonic()
            self.failures = 0
        self.failures += 1
        self.last_reason = end.reason
        if end.reason not in self._reasons_logged:
            self._reasons_logged.add(end.reason)
            log.warning(
                "broker away, retrying",
                broker=self.settings.address,
                reason=end.reason,
                client_id=self.client_id,
            )

    def _note_recovery(self, version: str) -> None:
        log.info(
            "broker connected",
            broker=self.settings.address,
            protocol=version,
            client_id=self.client_id,
            failures=self.failures,
            away_s=round(time.monotonic() - self._down_since, 1) if self.failures else 0.0,
        )
        self._reasons_logged.clear()
        self.failures, self.last_reason = 0, None


def _properties(packet_type: int) -> Properties:
    return Properties(packet_type)  # type: ignore[no-untyped-call]


def _in_words(error: OSError | ValueError, settings: BrokerSettings) -> str:
    """What an operator can act on, without a stack."""
    if isinstance(error, socket.gaierror):
        return f"DNS: the name {settings.host} cannot be resolved"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: wrong certificate: {error.verify_message or error.reason}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}; does {settings.address} speak TLS"
    if isinstance(error, ConnectionRefusedError):
        return f"refused: nothing listens at {settings.address}"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT_S:g} s"
    return f"{type(error).__name__}: {error}"


def _refusal_in_words(reason: ReasonCode, settings: BrokerSettings) -> str:
    """Of a CONNACK. Mosquitto says "not authorised" for a wrong password, so both are named together."""
    if reason.value in {134, 135}:
        return (
            f"it refuses user {settings.username!r}: wrong user name or password, or not allowed"
            f" ({reason})"
        )
    if reason.value == 132:
        return f"it does not speak this protocol version of MQTT ({reason})"
    return f"it refuses the connection ({reason})"


def _loss_in_words(reason: ReasonCode, client_id: str) -> str:
    if reason.value == 142:
        return f"another client took over the client id {client_id!r}"
    return f"the connection was lost ({reason})"

"""One instance of the platform is one home folder: started, described and ended from here.

`instance.json` is written before anything is started, so that whatever dies on the way, the next
`up` or `down` finds what is left of it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

import dspex_ray
from dspex_ray.cli import ray_node
from dspex_ray.cli.ports import Ports, choose_ports
from dspex_ray.cli.ray_node import Leader
from dspex_ray.cli.serve_api import ServeApi, wait_ready
from dspex_ray.core.clock import Clock, SystemClock
from dspex_ray.core.errors import Conflict, Invalid, NotFound, Unavailable

if TYPE_CHECKING:
    from dspex_ray.db.embedded import EmbeddedPostgres

LAPTOP_CONFIG = Path(dspex_ray.__file__).parent / "serve_configs" / "laptop.yaml"

_DASHBOARD_TIMEOUT_S = 180.0  # 7 s on a quiet machine; a head that dies is noticed at once
_SHUTDOWN_TIMEOUT_S = 20.0

OnStep = Callable[[str, float], None]


class InstanceState(BaseModel):
    """What is known of an instance, and kept in its home. Holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    home: Path
    phase: Literal["starting", "running"]
    host: str
    ports: Ports
    leader: Leader | None = None  # None until Ray's process has been started
    database: Literal["embedded", "external"]
    applications: list[str]
    started_at: datetime
    versions: dict[str, str]

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104
        return f"http://{host}:{self.ports.http}"

    @property
    def dashboard_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.dashboard}"

    @property
    def metrics_url(self) -> str | None:
        """Where Prometheus scrapes this node, Ray's metrics and ours; None: Ray chose the port."""
        port = self.ports.metrics
        return f"http://127.0.0.1:{port}/metrics" if port else None

    @property
    def ray_address(self) -> str:
        return f"127.0.0.1:{self.ports.gcs}"

    @property
    def ray_token_file(self) -> Path:
        return self.home / "ray-token"


class InstanceStatus(NamedTuple):
    """`phase` is what is so now: "broken" when something of it is dead. (status, message) each."""

    phase: Literal["stopped", "starting", "running", "broken"]
    state: InstanceState | None
    applications: dict[str, tuple[str, str]]


class Instance:
    """The instance of `home`. Every method may be called from any process; two at once conflict.

    `environment` is what Ray's processes inherit: the caller's own when not given.
    """

    def __init__(
        self,
        home: Path,
        *,
        environment: Mapping[str, str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.home = home.expanduser().resolve()
        self._environment = dict(
            os.environ if environment is None else environment  # noqa: TID251 - the CLI is a door
        )
        self._clock = clock or SystemClock()
        self._state_file = self.home / "instance.json"

    def up(
        self,
        *,
        http_port: int | None = None,
        dashboard_port: int | None = None,
        database_url: SecretStr | None = None,
        secret_key: SecretStr | None = None,
        config: Path = LAPTOP_CONFIG,
        timeout_s: float = 180.0,
        on_step: OnStep = lambda name, seconds: None,
    ) -> InstanceState:
        """Start what does not run, and return when `GET /readyz` of the instance answers 200.

        Idempotent: on a running instance it applies the Serve config again, on its old ports. A
        port of None is a free one; without `database_url` the embedded Postgres runs. `on_step`
        is told each step's name and seconds when it is done. `timeout_s` bounds the wait for the
        applications. What a failed or interrupted first start has begun is ended again.
        Raises Invalid (home, config), Conflict (a port, another `up`), Unavailable.
        """
        ray_node.check_home(self.home)
        serve = _read_config(config)
        with self._only_one():
            running = self._found_running(on_step)
            if running is not None:
                on_step("found it running", 0.0)
                self._start_database(running.database, database_url, on_step)
                return self._deploy(running, serve, timeout_s, on_step)
            try:
                return self._start(
                    serve,
                    choose_ports(http_port, dashboard_port),
                    database_url,
                    secret_key,
                    timeout_s,
                    on_step,
                )
            except BaseException:
                self._end(on_step)
                raise

    def down(self, *, on_step: OnStep = lambda name, seconds: None) -> bool:
        """End all that `up` started, and nothing else. False when there was nothing to end."""
        if not self.home.is_dir():
            return False
        with self._only_one():
            return self._end(on_step)

    def status(self) -> InstanceStatus:
        state = self._read_state()
        if state is None:
            return InstanceStatus("stopped", None, {})
        if state.phase == "starting" and self._is_being_worked_on():
            return InstanceStatus("starting", state, {})
        if not ray_node.is_alive(state.leader):
            return InstanceStatus("broken", state, {})
        try:
            with self._serve_api(state) as api:
                applications = api.applications()
        except Unavailable:
            return InstanceStatus("broken", state, {})
        whole = all(applications.get(name, ("",))[0] == "RUNNING" for name in state.applications)
        return InstanceStatus("running" if whole else "broken", state, applications)

    def database_url(self, configured: SecretStr | None) -> SecretStr:
        """The URL that the running instance's processes use. Raises NotFound when none runs."""
        state = self._read_state()
        if state is None:
            raise NotFound(f"no instance runs in {self.home}: start it with 'dspex up'")
        return self._database(state.database, configured)

    # -- steps ------------------------------------------------------------------------------

    def _start(
        self,
        serve: dict[str, Any],
        ports: Ports,
        database_url: SecretStr | None,
        secret_key: SecretStr | None,
        timeout_s: float,
        on_step: OnStep,
    ) -> InstanceState:
        state = InstanceState(
            id=secrets.token_hex(16),
            home=self.home,
            phase="starting",
            host=serve.get("http_options", {}).get("host", "127.0.0.1"),
            ports=ports,
            database="embedded" if database_url is None else "external",
            applications=[app["name"] for app in serve["applications"]],
            started_at=self._clock.now(),
            versions={name: version(name) for name in ("dspex-ray", "ray", "dspy")},
        )
        self._write_state(state)
        url = self._start_database(state.database, database_url, on_step)
        self._make_secrets(secret_key)
        with _step("Ray", on_step):
            state = self._start_ray(state, url, secret_key)
        return self._deploy(state, serve, timeout_s, on_step)

    def _start_database(
        self,
        kind: Literal["embedded", "external"],
        configured: SecretStr | None,
        on_step: OnStep,
    ) -> SecretStr:
        from dspex_ray.db.migrate import migrate

        with _step("Postgres", on_step):
            url = self._database(kind, configured)
        with _step("schema", on_step):
            # A database of yours may serve another release at this moment.
            migrate(url.get_secret_value(), contract=kind == "embedded")
        return url

    def _database(
        self, kind: Literal["embedded", "external"], configured: SecretStr | None
    ) -> SecretStr:
        """The URL; the embedded server is started unless it runs."""
        if kind == "embedded":
            url = _embedded(self.home).start()
            self._close()  # the wheel has opened it to everybody
            return SecretStr(url)
        if configured is None:
            raise Invalid(
                "this instance was started on a database of yours: give its URL again",
                field="database_url",
                rule="as started",
            )
        return configured

    def _make_secrets(self, secret_key: SecretStr | None) -> None:
        from dspex_ray.models.secrets import load_key

        load_key(self.home, secret_key)
        token = self.home / "ray-token"
        if not token.exists():
            _write_private(token, secrets.token_hex(32))

    def _start_ray(
        self, state: InstanceState, database_url: SecretStr, secret_key: SecretStr | None
    ) -> InstanceState:
        ray_node.make_folders(self.home)
        given = {
            "DSPEX_RAY_HOME": str(self.home),
            "DSPEX_RAY_DATABASE_URL": database_url.get_secret_value(),
        }
        if secret_key is not None:
            given["DSPEX_RAY_SECRET_KEY"] = secret_key.get_secret_value()
        process = ray_node.start_node(self.home, state.id, state.ports, self._environment | given)
        state = state.model_copy(update={"leader": ray_node.leader_of(process.pid)})
        self._write_state(state)
        deadline = time.monotonic() + _DASHBOARD_TIMEOUT_S
        with self._serve_api(state) as api:
            while not api.is_up():
                self._check_alive(state)
                if time.monotonic() > deadline:
                    raise Unavailable(f"Ray does not answer on {state.dashboard_url}")
                time.sleep(0.1)
        # It outlives us: said, so that Popen does not warn of a process left behind.
        process.returncode = 0
        return state

    def _deploy(
        self, state: InstanceState, serve: dict[str, Any], timeout_s: float, on_step: OnStep
    ) -> InstanceState:
        options = {**serve.get("http_options", {}), "host": state.host, "port": state.ports.http}
        names = [app["name"] for app in serve["applications"]]

        def check() -> None:
            self._check_alive(state)

        with _step("applications", on_step), self._serve_api(state) as api:
            api.deploy({**serve, "http_options": options}, timeout_s=timeout_s)
            api.wait_running(names, timeout_s=timeout_s, check=check)
        with _step("ready", on_step):
            wait_ready(f"{state.url}/readyz", timeout_s=timeout_s, check=check)
        state = state.model_copy(update={"phase": "running", "applications": names})
        self._write_state(state)
        return state

    def _end(self, on_step: OnStep) -> bool:
        state = self._read_state()
        if state is None:
            return False
        if ray_node.is_alive(state.leader):
            with (
                _step("applications ended", on_step),
                suppress(Unavailable),
                self._serve_api(state) as api,
            ):
                api.shut_down(timeout_s=_SHUTDOWN_TIMEOUT_S)
        with _step("Ray ended", on_step):
            ray_node.end_processes(state.id, state.leader)
        if state.database == "embedded":
            with _step("Postgres ended", on_step):
                _embedded(self.home).stop()
                self._close()
        self._state_file.unlink(missing_ok=True)
        return True

    def _found_running(self, on_step: OnStep) -> InstanceState | None:
        """The state of a cluster that answers; what is left of any other is ended."""
        state = self._read_state()
        if state is None:
            return None
        if state.phase == "running" and ray_node.is_alive(state.leader):
            with self._serve_api(state) as api:
                if api.is_up():
                    return state
        self._end(on_step)
        return None

    def _check_alive(self, state: InstanceState) -> None:
        if not ray_node.is_alive(state.leader):
            log = self.home / "logs" / "ray.log"
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise Unavailable(f"Ray ended by itself; {log} ends with:\n{tail}")

    # -- files ------------------------------------------------------------------------------

    @contextmanager
    def _serve_api(self, state: InstanceState) -> Iterator[ServeApi]:
        api = ServeApi(state.dashboard_url, state.ray_token_file.read_text(encoding="ascii"))
        try:
            yield api
        finally:
            api.close()

    def _close(self) -> None:
        """Nobody else may look into the home. As root the embedded Postgres is another user, who
        passes through to its own folder as long as it runs: at every checkpoint, not only at its
        start."""
        self.home.chmod(0o711 if os.geteuid() == 0 else 0o700)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Refuse to work on a home that another process works on; the lock dies with its owner."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._close()
        with (self.home / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(f"another 'up' or 'down' is at work in {self.home}") from None
            yield

    def _is_being_worked_on(self) -> bool:
        try:
            with self._only_one():
                return False
        except Conflict:
            return True

    def _read_state(self) -> InstanceState | None:
        try:
            return InstanceState.model_validate_json(self._state_file.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise Invalid(
                f"{self._state_file} is damaged or another version's: {error}", field="home"
            ) from None

    def _write_state(self, state: InstanceState) -> None:
        _write_private(self._state_file, state.model_dump_json(indent=2))


def _embedded(home: Path) -> EmbeddedPostgres:
    from dspex_ray.db.embedded import EmbeddedPostgres

    # Said by the wheel on import, about a lock file, wherever no desktop session runs.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    return EmbeddedPostgres(home / "pg")


@contextmanager
def _step(name: str, on_step: OnStep) -> Iterator[None]:
    started = time.monotonic()
    yield
    on_step(name, time.monotonic() - started)


def _read_config(path: Path) -> dict[str, Any]:
    """The Serve config as plain JSON values. Raises Invalid naming the file."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise Invalid(f"Serve config {path}: {error}", field="config") from None
    if not isinstance(config, dict) or not config.get("applications"):
        raise Invalid(f"Serve config {path} declares no applications", field="config")
    return config


def _write_private(path: Path, text: str) -> None:
    """All or nothing, and readable by nobody else at any moment (mode 0600)."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise

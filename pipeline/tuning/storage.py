"""Where studies are stored, and the lock by which several processes share one.

SQLite is the default, not Optuna's journal file, because a journal keeps no heartbeats.
"""

import fcntl
import hashlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sql
from optuna.storages import RDBStorage

from pipeline.tuning.options import HEARTBEAT_S

# Optuna marks with these what may change between its releases; requirements.lock holds the release that is meant.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
optuna.logging.set_verbosity(optuna.logging.ERROR)

DEFAULT_URL = "sqlite:///{folder}/study.db"  # the folder is the study's
# A process counts as dead after three missed heartbeats.
_MISSED_HEARTBEATS = 3
# A server that was set up without a locale returns bytes unless the client names an encoding.
_SERVER = {"connect_timeout": 10, "client_encoding": "utf8"}


class StudyError(ValueError):
    """A study or its storage that cannot be used: expected, got, next step."""


@dataclass(frozen=True)
class Storage:
    """An SQLite file or a PostgreSQL server, its `url` as SQLAlchemy takes it."""

    url: str
    heartbeat_s: int = HEARTBEAT_S

    @property
    def shown(self) -> str:
        """Return the URL without its password."""
        return sql.make_url(self.url).render_as_string(hide_password=True)

    @property
    def file(self) -> Path | None:
        """Return the SQLite file; None for a server."""
        url = sql.make_url(self.url)
        return Path(url.database or "") if url.get_backend_name() == "sqlite" else None

    def connect(self) -> RDBStorage:
        """Connect Optuna to the storage."""
        return RDBStorage(
            self.url,
            engine_kwargs={
                # A server may have closed an idle connection while a trial trained.
                "pool_pre_ping": True,
                "connect_args": {"timeout": 60} if self.file else _SERVER,
            },
            heartbeat_interval=self.heartbeat_s,
            grace_period=_MISSED_HEARTBEATS * self.heartbeat_s,
        )

    @contextmanager
    def lock(self, study: str = "") -> Iterator[Callable[[], None]]:
        """Hold the lock of a study, or of the whole storage; yield a function that releases it early.

        The lock ends with the process, however that ends. An SQLite file has one lock for all its studies.
        """
        with ExitStack() as held:
            if self.file:
                file = held.enter_context(Path(f"{self.file}.lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            else:
                engine = sql.create_engine(
                    self.url, poolclass=sql.NullPool, isolation_level="AUTOCOMMIT", connect_args=_SERVER
                )
                connection = held.enter_context(engine.connect())
                key = int.from_bytes(hashlib.sha256(study.encode()).digest()[:8], signed=True)
                connection.execute(sql.text("SELECT pg_advisory_lock(:key)"), {"key": key})
            yield held.close

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of the database into a `StudyError` that says what is wrong.

        Raises:
            StudyError: the storage cannot be reached.
        """
        try:
            yield
        except ModuleNotFoundError:
            raise
        except (sql.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
            raise StudyError(
                f"storage {self.shown}: expected it to answer, got: {first_line(cause or error)}; "
                "check that the server runs and can be reached, then repeat the command"
            ) from error


def storage_at(url: str, heartbeat_s: int = HEARTBEAT_S) -> Storage:
    """Return the storage at sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.

    Raises:
        StudyError: the URL is neither.
    """
    try:
        parsed = sql.make_url(url)
        backend = parsed.get_backend_name()
    except (sql.exc.ArgumentError, ValueError):
        backend = "something else"
    if backend not in ("sqlite", "postgresql") or (backend == "sqlite" and not parsed.database):
        raise StudyError(
            f"--storage: expected sqlite:///FILE or postgresql://USER@HOST/NAME, got {backend}; "
            "leave it out for a file in the run folder"
        )
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return Storage(parsed.render_as_string(hide_password=False), heartbeat_s)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

"""The Docker engine, through its command-line client: builds, layers and containers."""

import gzip
import json
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CLIENT = os.environ.get("DOCKER", "docker")
NAME = f"worker-bench-{os.getpid()}"
"""Of the network, and the beginning of the names of all containers and images."""
REDIS_IMAGE = "redis:7-bookworm"
CONFINED = (
    "--read-only",
    "--tmpfs=/tmp:size=16m",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--cpus=1",
    "--memory=512m",
    "--pids-limit=128",
    "--stop-timeout=75",
)
"""What compose.yaml says of the worker, as options of ``docker run``."""


def docker(*arguments: str, check: bool = True) -> str:
    """Run the client and return what it prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        [CLIENT, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        message = f"docker {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}"
        raise RuntimeError(message)
    return done.stdout.strip()


def inspect(what: str, field: str) -> str:
    """Return a field of a container or image, in the words of a Go template."""
    return docker("inspect", f"--format={{{{{field}}}}}", what)


def build(tag: str, folder: Path, dockerfile: str, options: Sequence[str]) -> float:
    """Build an image; return the seconds that it took."""
    path = str(folder / dockerfile)
    # Otherwise it would stay without a name; the build cache does not need it.
    docker("image", "rm", "--force", tag, check=False)
    started = time.perf_counter()
    docker("build", "--tag", tag, "--file", path, *options, str(folder))
    return time.perf_counter() - started


def layers(image: str) -> list[str]:
    """Return the digests of the layers of an image, lowest first."""
    return list(json.loads(inspect(image, "json .RootFS.Layers")))


def base_of(image: str) -> str:
    """Find the image that ``image`` was built on: the tagged one with most of its lowest layers."""
    own = layers(image)
    tags = docker("images", "--filter=dangling=false", "--format={{.Repository}}:{{.Tag}}")
    below = {tag: len(found) for tag in tags.split() if _starts(own, found := layers(tag))}
    return max(below, key=lambda tag: below[tag])


def _starts(own: list[str], other: list[str]) -> bool:
    return len(other) < len(own) and own[: len(other)] == other


@dataclass(frozen=True)
class Layer:
    """A layer, in bytes."""

    digest: str
    size: int
    compressed: int
    """By gzip, as registries keep and send it."""


def weigh(image: str, *, without: Sequence[str] = ()) -> list[Layer]:
    """Take an image apart and weigh each of its layers but ``without``, lowest first."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        docker("save", "--output", str(archive), image)
        with tarfile.open(archive) as tar:
            manifest = tar.extractfile("manifest.json")
            assert manifest, "every archive of an image has one"
            paths = json.load(manifest)[0]["Layers"]
            found = []
            for digest, path in zip(layers(image), paths, strict=True):
                if digest in without:
                    continue
                file = tar.extractfile(path)
                assert file, "a layer is a file"
                content = file.read()
                found.append(Layer(digest, len(content), len(gzip.compress(content, 6))))
    return found


def wait_until_healthy(container: str, seconds: float = 60) -> None:
    """Wait for the health check.

    Raises:
        TimeoutError: it does not become healthy; with its log.
    """
    deadline = time.monotonic() + seconds
    while inspect(container, ".State.Health.Status") != "healthy":
        if time.monotonic() > deadline:
            message = f"{container} is not healthy:\n{docker('logs', container)}"
            raise TimeoutError(message)
        time.sleep(0.05)


class Network:
    """A network of containers with a Redis in it; all of them end with it."""

    def __init__(self) -> None:
        self.redis_port = 0
        self._containers: list[str] = []

    def __enter__(self) -> "Network":
        docker("network", "create", NAME)
        redis = self.start(
            "redis", REDIS_IMAGE, "--publish=127.0.0.1::6379",
            command=("redis-server", "--appendonly", "yes"),
        )  # fmt: skip
        self.redis_port = int(docker("port", redis, "6379/tcp").split()[0].rpartition(":")[2])
        while docker("exec", redis, "redis-cli", "-e", "ping", check=False) != "PONG":
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        for container in self._containers:
            docker("rm", "--force", "--volumes", container, check=False)
        docker("network", "rm", NAME, check=False)

    def start(self, name: str, image: str, *options: str, command: Sequence[str] = ()) -> str:
        """Start a container and return its name."""
        full = f"{NAME}-{name}"
        dsn = f"--env=WORKER_REDIS_DSN=redis://{NAME}-redis:6379/0"
        self._containers.append(full)
        docker(
            "run", "--detach", "--name", full, f"--network={NAME}", dsn, *options, image, *command
        )
        return full

    def start_worker(self, name: str, image: str, *options: str) -> str:
        """Start a worker as compose.yaml does."""
        return self.start(name, image, "--init", *CONFINED, *options)

    def remove(self, container: str) -> None:
        """Remove a container."""
        docker("rm", "--force", "--volumes", container)
        self._containers.remove(container)

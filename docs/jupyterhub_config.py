"""JupyterHub for a class on one Linux machine: a sample to start from.

As root, in a folder of its own that nobody else may read, such as /srv/jupyterhub:

    python3 -m venv /opt/class && . /opt/class/bin/activate         # where learners can read it
    python -m pip install jupyterhub PATH-OF-THE-WORKBOOK
    npm install -g configurable-http-proxy
    FOUNDRY_LAB_HOME=/srv/foundry-lab foundry-lab model prepare     # once
    chmod go+x /srv/foundry-lab && chmod -R go+rX,go-w /srv/foundry-lab/models
    groupadd learners                # then each: useradd --create-home --groups learners ada && passwd ada
    chmod 700 /home/*                # what the lab keeps is closed anyhow; this closes the notebooks
    ip link add lab type bridge && ip addr add 10.77.0.1/16 dev lab && ip link set lab up   # at each boot
    jupyterhub -f jupyterhub_config.py

Each learner has a service, files and progress of his own; all share one copy of the model, which they can
only read. `python -m pytest -m hub` tries this file.
"""

import ctypes
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from jupyterhub.spawner import LocalProcessSpawner

c = get_config()  # noqa: F821 - JupyterHub defines it

APART = "network"
"""What keeps learners apart: "network" or "container". Accounts alone keep their files apart, but Foundry
Local asks nobody who he is: who finds the port of another's service on the same 127.0.0.1 can have it work,
unload its model and shut it down."""

HUB = "10.77.0.1"  # the bridge above: learners' networks end there, and nowhere else
MODELS = Path("/srv/foundry-lab/models")
PROGRAMS = Path(sys.executable).parent
NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class NetworkSpawner(LocalProcessSpawner):
    """Runs a learner's server under his account, in a network of his own: nobody else reaches its 127.0.0.1.

    And on one processor: services that compete for all of them wait for each other in the middle of a token,
    and take twice the processor time for it.

    The network leads to the hub only: not to other learners, and not to the internet unless you route it.
    It stays until the machine is restarted, and so does a service that has not been idle for long enough.
    """

    async def start(self) -> tuple[str, int]:
        number = pwd.getpwnam(self.user.name).pw_uid
        self.network, self.ip = own_network(number)
        processors = sorted(os.sched_getaffinity(0))
        self.processor = processors[number % len(processors)]
        return await super().start()

    def make_preexec_fn(self, name: str) -> Callable[[], None]:
        """Return what the new process does first: enter the network, which only root can, then leave root."""
        become_learner = super().make_preexec_fn(name)
        system = ctypes.CDLL(None, use_errno=True)  # Python 3.12 has os.setns

        def enter() -> None:
            with open(f"/run/netns/{self.network}") as network:  # noqa: PTH123 - little is safe after a fork
                if system.setns(network.fileno(), NEW_NETWORK):
                    raise OSError(ctypes.get_errno(), f"can't enter the network {self.network}")
            os.sched_setaffinity(0, {self.processor})
            become_learner()

        return enter


def own_network(number: int) -> tuple[str, str]:
    """Return name and address of a learner's network, made if need be.

    Args:
        number: of his account; below 64,000.
    """
    name, address = f"lab{number}", f"10.77.{number // 250}.{number % 250 + 2}"
    if Path("/run/netns", name).exists():
        return name, address
    try:
        for command in (
            f"netns add {name}",
            f"link add {name} type veth peer name eth0 netns {name}",
            f"link set {name} master lab up",
            f"link set {name} type bridge_slave isolated on",  # no way to other learners
            f"-n {name} link set lo up",
            f"-n {name} addr add {address}/16 dev eth0",
            f"-n {name} link set eth0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)
    except (OSError, subprocess.CalledProcessError):
        subprocess.run(["ip", "netns", "del", name], check=False)  # the link goes with it
        raise
    return name, address


c.JupyterHub.bind_url = "http://127.0.0.1:8000"  # put TLS in front of it
c.JupyterHub.active_server_limit = 30
c.JupyterHub.concurrent_spawn_limit = 10
c.Spawner.http_timeout = 120  # seconds; where a whole class logs in, servers wait for a processor
c.LocalAuthenticator.allowed_groups = {"learners"}  # accounts of the machine, with their passwords
c.Spawner.default_url = "/lab"
c.Spawner.environment = {
    "FOUNDRY_LAB_MODELS": str(MODELS),
    "FOUNDRY_LAB_IDLE_STOP": "600",  # seconds; a service that ended comes back at the next request
}

if APART == "network":
    c.JupyterHub.hub_bind_url = f"http://{HUB}:8081"
    c.JupyterHub.spawner_class = NetworkSpawner
    c.Spawner.cmd = [str(PROGRAMS / "jupyterhub-singleuser")]
    c.Spawner.environment["PATH"] = f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin"  # for terminals
    c.Spawner.notebook_dir = "~"
elif APART == "container":
    # Docker, and: python -m pip install dockerspawner jupyter-repo2docker
    # Then, in a clone of the workbook: repo2docker --no-run --image-name foundry-lab .
    # docker run --rm foundry-lab jupyterhub-singleuser --version must show the major version of this hub.
    c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"  # the containers' way back: close 8081 to the outside
    c.JupyterHub.hub_connect_ip = "172.17.0.1"  # Docker's bridge, as `ip addr show docker0` says
    c.JupyterHub.spawner_class = "docker"
    c.DockerSpawner.image = "foundry-lab"
    c.DockerSpawner.remove = True
    c.DockerSpawner.mem_limit = "2G"
    c.DockerSpawner.cpu_limit = 1
    c.DockerSpawner.volumes = {  # what a learner writes outlives his container
        "foundry-lab-{username}": "/home/jovyan/work",
        str(MODELS): {"bind": "/srv/models", "mode": "ro"},
    }
    c.Spawner.notebook_dir = "/home/jovyan/work"
    c.Spawner.environment["FOUNDRY_LAB_MODELS"] = "/srv/models"
    c.Spawner.environment["FOUNDRY_LAB_HOME"] = "/home/jovyan/work/.foundry-lab"  # progress is there

"""JupyterHub for a class on one machine: a sample to start from.

    python -m pip install jupyterhub foundry-lab && npm install -g configurable-http-proxy
    FOUNDRY_LAB_HOME=/srv/foundry-lab foundry-lab model prepare     # once, as the administrator
    chmod go+x /srv/foundry-lab && chmod -R go+rX,go-w /srv/foundry-lab/models
    jupyterhub -f jupyterhub_config.py

Each learner has a service, files and progress of his own; all share one copy of the model, which they can
only read. Choose an authenticator before you let anybody in: JupyterHub's default takes the machine's users.
"""

import os
from pathlib import Path

c = get_config()  # noqa: F821 - JupyterHub defines it

CONTAINERS = False
"""True where Docker and the package dockerspawner are installed. Foundry Local asks nobody who he is: on one
machine any user can send requests to another's service, if he finds its port. Containers close that."""

c.JupyterHub.bind_url = "http://127.0.0.1:8000"  # put TLS in front of it
c.JupyterHub.hub_bind_url = "http://127.0.0.1:8081"

MODELS = Path(os.environ.get("FOUNDRY_LAB_MODELS", "/srv/foundry-lab/models"))
c.Spawner.environment = {
    "FOUNDRY_LAB_MODELS": str(MODELS),
    "FOUNDRY_LAB_IDLE_STOP": "600",  # seconds; a service that ended comes back at the next request
}
c.Spawner.default_url = "/lab"
c.Spawner.mem_guarantee = "1G"
c.JupyterHub.active_server_limit = 30
c.JupyterHub.concurrent_spawn_limit = 10

if CONTAINERS:
    c.JupyterHub.spawner_class = "docker"
    c.DockerSpawner.image = "foundry-lab"  # python -m pip install jupyter-repo2docker && repo2docker --no-run
    #   --image-name foundry-lab .         in a clone of the workbook; environment.yml says what goes in
    c.DockerSpawner.volumes = {
        "foundry-lab-{username}": "/home/jovyan/work",
        str(MODELS): {"bind": "/srv/models", "mode": "ro"},
    }
    c.Spawner.environment["FOUNDRY_LAB_MODELS"] = "/srv/models"
    c.DockerSpawner.mem_limit = "2G"
    c.DockerSpawner.remove = True
    c.JupyterHub.hub_bind_url = "http://0.0.0.0:8081"  # the containers' way back; close 8081 to the outside
else:
    c.JupyterHub.spawner_class = "jupyterhub.spawner.LocalProcessSpawner"
    c.Spawner.cmd = ["jupyterhub-singleuser"]
    c.Spawner.notebook_dir = "~"

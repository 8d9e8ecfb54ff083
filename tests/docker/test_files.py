"""The image, the compose file and the manifests: linted, and held to what docs/deploy.md says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docker.commands import ROOT, pluralllm_commands, require_command, shell_blocks

DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SUPERNODES = sorted(set(SERVICES) - {"superlink"})
MANIFESTS = [
    manifest
    for block in re.findall(r"```yaml\n(.*?)```", (DOCKER / "kubernetes.md").read_text(), re.DOTALL)
    for manifest in yaml.safe_load_all(block)
]
PODS = [each["spec"]["template"]["spec"] for each in MANIFESTS if each["kind"] == "Deployment"]
YAML_RULES = "{extends: default, rules: {line-length: {max: 100}, document-start: disable}}"

every_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))
every_pod = pytest.mark.parametrize("pod", PODS, ids=["superlink", "supernode"])


def instructions(text: str = DOCKERFILE) -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines joined."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    stages = [i for i, (name, _) in enumerate(instructions()) if name == "FROM"]
    return instructions()[stages[-1] :]


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(str(command[0]))
    return subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "docker/Dockerfile"),
        ("yamllint", "--strict", "-d", YAML_RULES, "docker/compose.yml"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker/compose.yml"),
    ],
    ids=lambda command: command[0],
)
def test_linters_find_nothing(command: tuple[str, ...]) -> None:
    done = tool(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_of_dockerfiles_finds_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /tmp\n")
    assert tool("hadolint", tmp_path / "Dockerfile").returncode == 1


# -- The image ------------------------------------------------------------------------------------


def test_the_image_runs_as_a_user_of_its_own_with_a_fixed_number() -> None:
    users = [arguments for name, arguments in final_stage() if name == "USER"]
    assert users == ["10001:10001"]
    assert "--uid 10001 --gid 10001" in DOCKERFILE


def test_base_image_is_of_the_tested_python_and_never_the_latest() -> None:
    (image,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", image)
    stages = [arguments for name, arguments in instructions() if name == "FROM"]
    assert stages == ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"]


def test_what_is_copied_is_named_and_the_build_sees_nothing_else() -> None:
    copies = [arguments.split() for name, arguments in instructions() if name == "COPY"]
    assert not [name for name, _ in instructions() if name == "ADD"]
    sources = {source for words in copies if words[0] != "--from=build" for source in words[:-1]}
    assert "." not in sources
    allowed = {line[1:] for line in IGNORED if line.startswith("!")}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)
    assert IGNORED[1] == "*"  # before anything is allowed
    assert {"**/*.key", "**/*.pem", "**/*.pub"} <= set(IGNORED[IGNORED.index("!task") :])


def test_every_package_is_in_the_image() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packages) <= {line[1:] for line in IGNORED if line.startswith("!")}


def test_no_secret_is_in_the_image() -> None:
    named = [arguments for name, arguments in instructions() if name in ("ENV", "ARG", "LABEL")]
    assert not re.search(r"(?i)secret|token|passw|api.?key|credential", " ".join(named))


def test_versions_come_from_the_constraints_alone() -> None:
    assert "==" not in DOCKERFILE
    installs = re.findall(r"pip install [^&\n]*", DOCKERFILE)
    assert len(installs) == 2
    assert all("-c constraints.txt" in install for install in installs)
    assert "PIP_NO_CACHE_DIR=1" in DOCKERFILE
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["align"], *extras["dev"]]
    names = {re.split(r"[\[>=<~!]", each)[0].lower().replace("_", "-") for each in wanted}
    assert names - pinned == {"pluralllm"}  # whose own extra is part of dev


def test_image_tags_are_the_projects_version() -> None:
    files = [DOCKER / name for name in ("Dockerfile", "compose.yml", "README.md", "kubernetes.md")]
    tags = [
        tag for file in files for tag in re.findall(r"pluralllm:(\d\S*?)[\s}]", file.read_text())
    ]
    assert len(tags) > 5
    assert {tag.removesuffix("-gpu") for tag in tags} == {PROJECT["version"]}


# -- The services ---------------------------------------------------------------------------------


@every_service
def test_a_service_is_watched_and_comes_back(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["healthcheck"]["test"][1:3] == ["python", "docker/healthcheck.py"]


@every_service
def test_a_service_may_do_no_more_than_it_must(service: dict[str, Any]) -> None:
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "environment"} & set(service)


@pytest.mark.parametrize("service", [SERVICES[name] for name in SUPERNODES], ids=SUPERNODES)
def test_a_node_has_its_key_as_a_secret_that_is_in_no_repository(
    service: dict[str, Any],
) -> None:
    (secret,) = service["secrets"]
    assert Path(secret["target"]).suffix == ".key"
    file = COMPOSE["secrets"][secret["source"]]["file"]
    assert file.startswith("${PLURALLLM_DEPLOYMENT}/")
    assert not any(volume.endswith(".key") for volume in service["volumes"])


def test_every_party_has_its_own_key_and_state_and_nobody_elses() -> None:
    for name in SUPERNODES:
        service = SERVICES[name]
        assert service["secrets"] == [{"source": f"{name}-key", "target": "/state/node.key"}]
        state, *mounted = service["volumes"]
        assert state == f"{name}-state:/state"
        assert all(volume.endswith(":ro") for volume in mounted)
        assert "ports" not in service  # nodes dial out
        for other in set(SUPERNODES) - {name}:
            assert other not in str(service)
    assert len(SUPERNODES) == 3
    assert set(COMPOSE["volumes"]) == {"superlink-state", *(f"{each}-state" for each in SUPERNODES)}


def test_the_superlink_has_one_port_for_the_world() -> None:
    ports = SERVICES["superlink"]["ports"]
    assert ports[0] == "8000:8000"
    assert all(port.startswith("127.0.0.1:") for port in ports[1:])


# -- The manifests --------------------------------------------------------------------------------


@every_pod
def test_a_pod_may_do_no_more_than_it_must(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert "env" not in container
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}


@every_pod
def test_a_pod_is_watched(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        command = container[probe]["exec"]["command"]
        assert command[:2] == ["python", "docker/healthcheck.py"]


def test_manifests_hold_no_secret_and_never_two_of_a_kind() -> None:
    assert "Secret" not in {manifest["kind"] for manifest in MANIFESTS}
    for manifest in MANIFESTS:
        if manifest["kind"] == "Deployment":
            assert manifest["spec"]["replicas"] == 1
            assert manifest["spec"]["strategy"] == {"type": "Recreate"}


# -- The commands ---------------------------------------------------------------------------------


def mentioned_commands() -> list[list[str]]:
    files = [DOCKER / "README.md", DOCKER / "kubernetes.md"]
    calls = [call for file in files for call in pluralllm_commands(shell_blocks(file))]
    calls += [service["command"] for service in SERVICES.values()]
    calls += [container["args"] for pod in PODS for container in pod["containers"]]
    return calls


@pytest.mark.parametrize("call", mentioned_commands(), ids=lambda call: " ".join(call)[:70])
def test_commands_settings_and_options_exist(call: list[str]) -> None:
    require_command(call)


def test_entry_points_start_with_the_images_environment(tmp_path: Path) -> None:
    """As in the container: nothing but its variables, a home of its own, the app's folder."""
    (folder := tmp_path / "empty").mkdir()
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "PLURALLLM_PROJECT": str(ROOT),
        "PLURALLLM_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(ROOT),
    }
    for role, file in (("superlink", "superlink.toml"), ("supernode", "supernode.toml")):
        done = subprocess.run(
            ["pluralllm", "deploy", role, str(folder)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert file in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

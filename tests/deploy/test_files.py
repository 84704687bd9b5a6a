"""What deploy/ says is well-formed, agrees with itself and with Colony, and is as closed as it claims."""

from __future__ import annotations

import json
import platform
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from colony.flower.settings import FlowerSettings
from colony.gateway.settings import GatewaySettings
from colony.health import STUCK_SECONDS
from colony.metrics.figures import GAUGES
from colony.settings import SECRETS_DIRECTORIES, Settings
from tests.deploy.crds import SCHEMAS
from tests.deploy.kit import (
    DEPLOY,
    ROOT,
    UNITS,
    checker,
    compose,
    dockerfile,
    documents,
    image,
    run,
    seconds,
    services,
    tool,
    unit,
)

KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OLDEST_KUBERNETES = "1.30"
BEYOND_DRAIN = 10.0
OURS = ("worker", "beat-1", "beat-2", "gateway", "flower")


def passes(name: str, *arguments: str, install: str = "make setup") -> None:
    """A checker finds nothing."""
    done = run(checker(name, install), *arguments)
    assert done.returncode == 0, done.stdout


def manifests() -> list[dict[str, Any]]:
    """All Kubernetes objects but those that only kustomize and people read."""
    files = [path for path in KUBERNETES if path.stem not in ("kustomization", "secrets.example")]
    return [document for path in files for document in documents(path)]


def redis_users() -> list[str]:
    """Those of deploy/redis/users.acl that have a password."""
    rules = (DEPLOY / "redis" / "users.acl").read_text()
    return [name for name in re.findall(r"^user (\S+)", rules, re.MULTILINE) if name != "default"]


def test_compose_keeps_to_its_schema() -> None:
    """And docker compose itself takes it, where it is installed."""
    passes("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    docker = shutil.which("docker")
    if docker and run(docker, "compose", "version").returncode == 0:
        done = run(docker, "compose", "config", "--quiet")
        assert done.returncode == 0, done.stdout


def test_shell_scripts_are_clean() -> None:
    """By shellcheck; .ci/run calls its functions by name, which it does not see."""
    passes("shellcheck", "deploy/secrets.sh", "deploy/redis/start.sh")
    passes("shellcheck", "--exclude", "SC2329", ".ci/run")


def test_the_dockerfile_is_clean() -> None:
    """By hadolint, of which there is a wheel for this machine only."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64") and tool("hadolint") is None:
        pytest.skip("there is no wheel of hadolint for this machine")
    passes("hadolint", "deploy/Dockerfile")


def test_the_image_is_closed_and_small() -> None:
    """Several stages, bases with a tag, locked versions, a numeric user, no secrets, declared ends."""
    base = dict(re.findall(r"(\w+)=(\S+)", " ".join(v for n, v in dockerfile() if n == "ARG")))
    stages = [value.split()[0] for name, value in dockerfile() if name == "FROM"]
    assert len(stages) > 1
    for stage in stages:
        named = base.get(stage.strip("${}"), stage)
        assert ":" in named
        assert not named.endswith(":latest")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", image("USER"))
    assert image("ENTRYPOINT") == '["colony"]'
    assert image("STOPSIGNAL") == "SIGTERM"
    assert "/livez" in image("HEALTHCHECK")
    assert any("--constraint requirements.lock" in value for name, value in dockerfile())
    assert not any(name == "ADD" for name, _ in dockerfile())


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    """.dockerignore lets through each source of COPY, and each of those is there."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    copies = [value for name, value in dockerfile() if name == "COPY" and "--from" not in value]
    sources = {source for value in copies for source in value.split()[:-1]}
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_nobody_is_told_to_build_ours_under_the_name_of_theirs() -> None:
    """Where COLONY_IMAGE is set compose builds nothing: its only build is our Dockerfile."""
    builds = [service["build"] for service in services().values() if "build" in service]
    assert builds == [{"context": ".", "dockerfile": "deploy/Dockerfile"}]
    text = (DEPLOY / "README.md").read_text()
    theirs = [
        block
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        if "COLONY_IMAGE=" in block
    ]
    assert len(theirs) == 2
    for line in "".join(theirs).splitlines():
        assert ("compose up" in line) == ("--no-build" in line)


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_is_closed_bounded_and_watched(name: str) -> None:
    """Read-only, no capability, no new privileges, limits, a health check, loopback ports only."""
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not str(service["user"]).startswith("0")
    assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"])
    assert "healthcheck" in service
    assert ":" in service["image"]
    assert seconds(service["stop_grace_period"]) > 0
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")
    for value in (service.get("environment") or {}).values():
        assert "://" not in str(value), "URLs hold passwords: they belong into secrets"


def test_both_beats_are_one_declaration() -> None:
    """The second stands by."""
    assert services()["beat-1"] == services()["beat-2"]


def test_whoever_drains_is_given_the_time() -> None:
    """COLONY_DRAIN_GRACE and ten seconds more, everywhere; the watchdog waits longer than that, too."""
    grace = float(services()["worker"]["environment"]["COLONY_DRAIN_GRACE"]) + BEYOND_DRAIN
    worker = next(m for m in pod_owners() if m["metadata"]["name"] == "colony-worker")
    assert grace == Settings().drain_grace.total_seconds() + BEYOND_DRAIN
    assert seconds(services()["worker"]["stop_grace_period"]) > grace
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > grace
    [container] = worker["spec"]["template"]["spec"]["containers"]
    told = container["lifecycle"]["preStop"]["exec"]["command"]
    assert told == ["python", "-S", "-c", "import os; os.kill(1, 15)"], "the drain begins there"
    assert signal.Signals(15).name == image("STOPSIGNAL")
    assert seconds(unit("colony-worker@.service")["TimeoutStopSec"][-1]) > grace
    assert seconds(unit("colony-worker@.service")["WatchdogSec"][-1]) > grace


def test_each_unit_has_a_watchdog() -> None:
    """It says when it is ready and gives signs of life, and is started again where they stop."""
    names = [path.name for path in UNITS.glob("*.service")]
    assert len(names) == 4
    for name in names:
        declared = unit(name)
        assert declared["Type"] == ["notify"], name
        assert seconds(declared["WatchdogSec"][0]) > 2 * STUCK_SECONDS, name
        assert declared["Restart"] == ["always"], name


def test_what_nodes_leave_on_disk_outlives_them() -> None:
    """In compose a named volume, which takes its owner from the image; with systemd a StateDirectory."""
    worker = services()["worker"]
    folder = worker["environment"]["COLONY_STATE_DIR"]
    [volume] = [v for v in worker["volumes"] if v.endswith(f":{folder}")]
    assert volume.partition(":")[0] in compose()["volumes"]
    assert folder in json.loads(image("VOLUME"))
    assert any(f"chown colony:colony {folder}" in value for _, value in dockerfile())
    declared = unit("colony-worker@.service")
    [kept] = declared["StateDirectory"]
    assert f"COLONY_STATE_DIR=%S/{kept}" in declared["Environment"]


def test_every_setting_can_be_changed_where_we_deploy() -> None:
    """The runbook says to raise some: in one file for all roles, which need not be there."""
    file = {"path": "deploy/colony.env", "required": False}
    assert [name for name in OURS if file not in services()[name].get("env_file", [])] == []
    assert "`deploy/colony.env`" in (DEPLOY / "README.md").read_text()


def test_each_user_of_redis_has_a_password_everywhere() -> None:
    """In compose, for the server that reads them; in the example of Kubernetes' secrets."""
    wanted = {f"redis_{user}_password" for user in redis_users()}
    assert wanted
    assert set(services()["redis"]["secrets"]) == wanted
    assert wanted <= set(compose()["secrets"])
    example = documents(DEPLOY / "kubernetes" / "secrets.example.yaml")
    [passwords] = [s for s in example if s["metadata"]["name"] == "colony-redis-passwords"]
    assert set(passwords["stringData"]) == wanted


def test_secrets_of_kubernetes_are_made_in_a_namespace_that_is() -> None:
    """They come before everything else is applied: the example makes it first, and then each of them."""
    example = DEPLOY / "kubernetes" / "secrets.example.yaml"
    said = re.findall(r"^#     (kubectl .*)$", example.read_text(), re.MULTILINE)
    assert said[0] == "kubectl apply -f deploy/kubernetes/namespace.yaml"
    [namespace] = documents(DEPLOY / "kubernetes" / "namespace.yaml")
    start = f"kubectl -n {namespace['metadata']['name']} create secret generic "
    made = [line.removeprefix(start).split()[0] for line in said[1:]]
    assert made == [secret["metadata"]["name"] for secret in documents(example)]


def test_secrets_are_kept_and_urls_follow_the_host(tmp_path: Path) -> None:
    """Run again: the same. Run for a Redis elsewhere: the same passwords, and its URLs."""

    def made(*arguments: str) -> dict[str, str]:
        done = run(str(DEPLOY / "secrets.sh"), *arguments, OUT=str(tmp_path))
        assert done.returncode == 0, done.stdout
        return {file.name: file.read_text().strip() for file in tmp_path.iterdir()}

    first = made()
    assert made() == first
    assert first["node_redis_url"].endswith("@redis:6379/0")
    moved = made("redis.example.com:6380", "rediss")
    password = first["redis_node_password"]
    assert moved["node_redis_url"] == f"rediss://node:{password}@redis.example.com:6380/0"
    assert {name for name in first if first[name] != moved[name]} == {
        f"{user}_redis_url" for user in redis_users()
    }
    assert made() == moved


def test_what_is_mounted_is_there() -> None:
    """Every file or folder of the repository that compose mounts or includes."""
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source


def known_settings() -> set[str]:
    """Every variable that some process of ours reads."""
    known = {"COLONY_NAME", *SECRETS_DIRECTORIES}
    for model in (Settings, GatewaySettings, FlowerSettings):
        prefix = model.model_config["env_prefix"]
        known |= {prefix + field.upper() for field in model.model_fields}
    return known


def test_every_setting_exists() -> None:
    """A misspelt COLONY_… would be ignored without a word."""
    files = [ROOT / "docker-compose.yml", DEPLOY / "Dockerfile", *KUBERNETES, *UNITS.iterdir()]
    only_compose = {"COLONY_IMAGE"}
    for path in files:
        used = set(re.findall(r"\bCOLONY_[A-Z_]*[A-Z]\b", path.read_text()))
        assert used <= known_settings() | only_compose, path.name


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_manifests_keep_to_the_schema_of_kubernetes(path: Path) -> None:
    """Strictly: an unknown field is an error."""
    if path.stem == "kustomization":
        pytest.skip("kustomize reads it: see the next test")
    passes("kubernetes-validate", "--strict", "--quiet", "-k", OLDEST_KUBERNETES, str(path))


OPERATORS = [
    path
    for folder in ("keda", "monitoring")
    for path in sorted((DEPLOY / "kubernetes" / folder).glob("*.yaml"))
    if path.stem != "kustomization"
]


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.name)
def test_kinds_of_operators_have_the_fields_that_are(path: Path) -> None:
    """Strictly, too. A field that is misspelt is an error: so this says something."""
    assert documents(path)
    for manifest in documents(path):
        schema = SCHEMAS[manifest["kind"]]
        jsonschema.validate(manifest, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**manifest, "spec": {**manifest["spec"], "misspelt": 1}}, schema)


def test_whatever_is_scraped_by_annotations_has_its_monitor() -> None:
    """The same pods, by the name of the port that the annotation gives by number."""
    monitors = documents(DEPLOY / "kubernetes" / "monitoring" / "podmonitors.yaml")
    selected = {}
    for monitor in monitors:
        [endpoint] = monitor["spec"]["podMetricsEndpoints"]
        selected[frozenset(monitor["spec"]["selector"]["matchLabels"].items())] = endpoint
    annotated = 0
    for owner in pod_owners():
        template = owner["spec"]["template"]
        annotations = template["metadata"].get("annotations", {})
        if annotations.get("prometheus.io/scrape") == "true":
            endpoint = selected[frozenset(template["metadata"]["labels"].items())]
            assert endpoint["path"] == annotations["prometheus.io/path"]
            [container] = template["spec"]["containers"]
            ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
            assert ports[endpoint["port"]] == annotations["prometheus.io/port"]
            annotated += 1
    assert annotated == len(monitors) == 3


def test_the_operator_takes_the_alerts_as_the_readme_says() -> None:
    """Its command makes a PrometheusRule of all of them."""
    text = (DEPLOY / "README.md").read_text()
    [command] = re.findall(r"^(\{ printf .*?\} )\| kubectl", text, re.MULTILINE | re.DOTALL)
    done = run("sh", "-c", command)
    assert done.returncode == 0, done.stdout
    made = YAML(typ="safe", pure=True).load(done.stdout)
    jsonschema.validate(made, SCHEMAS["PrometheusRule"])
    [rules] = documents(DEPLOY / "prometheus" / "alerts.yml")
    assert made["spec"] == rules


@pytest.mark.parametrize("folder", ["kubernetes", "kubernetes/keda", "kubernetes/monitoring"])
def test_kustomize_builds_it(folder: str) -> None:
    """Every resource is found, and nothing twice. By kubectl itself, where it is installed."""
    [kustomization] = documents(DEPLOY / folder / "kustomization.yaml")
    resources = [DEPLOY / folder / name for name in kustomization["resources"]]
    assert len(set(resources)) == len(resources)
    made = []
    for path in resources:
        if path.is_dir():
            [inner] = documents(path / "kustomization.yaml")
            for generated in inner["configMapGenerator"]:
                assert all((path / name).exists() for name in generated["files"])
                made.append(("ConfigMap", generated["name"]))
        else:
            made += [(m["kind"], m["metadata"]["name"]) for m in documents(path)]
    assert len(set(made)) == len(made)
    for replicas in kustomization.get("replicas", []):
        assert ("Deployment", replicas["name"]) in made
    if kubectl := tool("kubectl"):
        done = run(kubectl, "kustomize", f"deploy/{folder}")
        assert done.returncode == 0, done.stdout


def pod_owners() -> list[dict[str, Any]]:
    """Deployments and StatefulSets."""
    return [m for m in manifests() if m["kind"] in ("Deployment", "StatefulSet")]


def test_pods_are_closed_and_bounded() -> None:
    """As the namespace enforces (restricted), and read-only beyond that."""
    assert len(pod_owners()) == 5
    for owner in pod_owners():
        spec = owner["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_the_user_of_the_image_is_the_user_of_the_pods() -> None:
    """And of the services."""
    uid, gid = map(int, image("USER").split(":"))
    assert {services()[name]["user"] for name in OURS} == {f"{uid}:{gid}"}
    for owner in pod_owners():
        if owner["metadata"]["name"] != "colony-redis":
            context = owner["spec"]["template"]["spec"]["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"]) == (uid, gid)


def labels_of_pods() -> list[dict[str, str]]:
    """Of each Deployment and StatefulSet."""
    return [owner["spec"]["template"]["metadata"]["labels"] for owner in pod_owners()]


def test_selectors_select_somebody() -> None:
    """Of services, budgets and policies."""
    for manifest in manifests():
        spec = manifest.get("spec", {})
        selector = spec.get("podSelector") or spec.get("selector") or {}
        wanted = (
            selector.get("matchLabels", selector) if manifest["kind"] != "Service" else selector
        )
        if manifest["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Service") and wanted:
            assert any(wanted.items() <= labels.items() for labels in labels_of_pods()), manifest


def test_nobody_may_talk_unless_it_is_said() -> None:
    """One policy for all pods that allows nothing."""
    policies = {
        m["metadata"]["name"]: m["spec"] for m in manifests() if m["kind"] == "NetworkPolicy"
    }
    closed = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert policies["default-deny"] == closed
    components = {labels["app.kubernetes.io/component"] for labels in labels_of_pods()}
    assert components <= set(policies)


def test_keda_asks_for_what_there_is() -> None:
    """A Deployment of ours, metrics of ours, the colony of the ConfigMap."""
    [scaled] = documents(DEPLOY / "kubernetes" / "keda" / "scaledobject.yaml")
    target = scaled["spec"]["scaleTargetRef"]["name"]
    assert target in {owner["metadata"]["name"] for owner in pod_owners()}
    metrics = {name for name, _ in GAUGES.values()}
    [config] = [m for m in manifests() if m["kind"] == "ConfigMap"]
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert any("oldest_pending" in query for query in queries)
    assert any("slots_used" in query for query in queries)
    for query in queries:
        assert set(re.findall(r"colony_\w+", query)) <= metrics
        assert f'colony="{config["data"]["COLONY_NAME"]}"' in query


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """It says nothing at all; the program, which is not here, stands for any other."""
    program = checker("systemd-analyze", "apt-get install systemd")
    for path in [*UNITS.glob("*.service"), *UNITS.glob("*.target")]:
        text = path.read_text().replace("/opt/colony/bin/colony", "/bin/true")
        (tmp_path / path.name).write_text(text)
    for path in sorted(tmp_path.iterdir()):
        name = path.name.replace("@.", "@1.")
        done = run(
            program, "verify", "--man=no", str(tmp_path / name), SYSTEMD_UNIT_PATH=f"{tmp_path}:"
        )
        assert (done.returncode, done.stdout) == (0, "")


def test_the_readme_names_each_credential_of_the_units() -> None:
    """Without one of them systemd does not start its unit. `secrets.sh` makes all of them."""
    loaded = [c for path in UNITS.glob("*.service") for c in unit(path.name)["LoadCredential"]]
    sources = {line.partition(":")[2] for line in loaded}
    [paragraph] = re.findall(
        r"^\*\*systemd\*\*:.*?```", (DEPLOY / "README.md").read_text(), re.M | re.S
    )
    others = {s for s in sources if not re.fullmatch(r"/etc/colony/\w+_redis_url", s)}
    assert "`/etc/colony/*_redis_url`" in paragraph
    assert others == {"/etc/colony/flower_basic_auth"}
    assert "`flower_basic_auth`" in paragraph


def test_what_is_enabled_starts_with_the_machine(tmp_path: Path) -> None:
    """By the README's commands, also when one of the units is disabled again."""
    program = checker("systemctl", "apt-get install systemd")
    shutil.copytree(UNITS, folder := tmp_path / "etc" / "systemd" / "system")
    at_boot = folder / "multi-user.target.wants"
    commands = re.findall(
        r"^systemctl enable --now ([^#\n]+)", (DEPLOY / "README.md").read_text(), re.MULTILINE
    )
    units = " ".join(commands).split()
    assert {name.partition("@")[0].partition(".")[0] for name in units} == {
        path.stem.rstrip("@") for path in UNITS.glob("colony*.*") if path.suffix != ".example"
    }
    assert run(program, f"--root={tmp_path}", "enable", *units).returncode == 0

    def started() -> set[str]:
        return {path.name.removesuffix(".service") for path in at_boot.iterdir()}

    assert started() == set(units)
    assert run(program, f"--root={tmp_path}", "disable", units[1]).returncode == 0
    assert started() == set(units) - {units[1]}


def test_each_node_and_beat_of_a_host_has_a_health_port_of_its_own() -> None:
    """Which what all of them share does not take away; others reach it; none is the gateway's."""
    ports = []
    for name in ("colony-worker@.service", "colony-beat@.service"):
        [template] = [
            line.removeprefix("COLONY_HEALTH_PORT=")
            for line in unit(name)["Environment"]
            if line.startswith("COLONY_HEALTH_PORT=")
        ]
        ports += [int(template.replace("%i", str(number))) for number in range(1, 10)]
    assert ports == [*range(8001, 8010), *range(8101, 8110)]
    assert GatewaySettings().port not in ports
    example = (UNITS / "colony.env.example").read_text()
    assert "COLONY_HEALTH_PORT=" not in example
    assert "\nCOLONY_HEALTH_HOST=" in example


@pytest.mark.parametrize("path", sorted(UNITS.glob("*.service")), ids=lambda path: path.name)
def test_units_are_closed(path: Path) -> None:
    """What each gives up, and that it is started again for ever."""
    declared = unit(path.name)
    for key, value in {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
        "Restart": "always",
        "KillSignal": "SIGTERM",
        "StartLimitIntervalSec": "0",
    }.items():
        assert declared[key] == [value]
    assert not any("PASSWORD" in line for line in declared.get("Environment", []))


def test_every_alert_has_its_runbook() -> None:
    """One heading in deploy/README.md for each alert of deploy/prometheus, and none too many."""
    [rules] = documents(DEPLOY / "prometheus" / "alerts.yml")
    alerts = {
        rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule
    }
    runbook = set(re.findall(r"^#### (\w+)$", (DEPLOY / "README.md").read_text(), re.MULTILINE))
    assert alerts == runbook

"""`inspect`: what docker shows, from our records. Pure reading."""

from __future__ import annotations

import os

from layerfs._lazy import TYPE_CHECKING
from layerfs.engine.connections import network_settings, run_files
from layerfs.engine.logs import log_file
from layerfs.engine.snapshots import lower_paths
from layerfs.engine.surroundings import oom_killed, paused
from layerfs.engine.volumes import mount_points
from layerfs.oci.fields import format_time
from layerfs.runtime.layout import MASKED_PATHS, READ_ONLY_PATHS, unified_cgroups

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.container import Container
    from layerfs.engine.image import Image
    from layerfs.engine.settings import Settings

_ABSENT = {  # what docker shows of things that are not here
    "ContainerIDFile": "",
    "VolumeDriver": "",
    "VolumesFrom": None,
    "ConsoleSize": [0, 0],
    "Cgroup": "",
    "Isolation": "",
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "DeviceRequests": None,
    "CpuCount": 0,
    "CpuPercent": 0,
    "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
}
_NEVER = "0001-01-01T00:00:00Z"


def _time(ns: int | None) -> str:
    return format_time(ns) if ns else _NEVER


def inspect_image(image: Image) -> dict[str, Any]:
    """The OCI subset that docker 28 shows, in its order."""
    config, record = image.config, image.record
    digests = [t.reference.familiar for t in _digest_names(image)]
    history = config.history[-1] if config.history else None
    root = image.store.root
    return {
        "Id": image.id,
        "RepoTags": list(image.tags),
        "RepoDigests": digests,
        "Parent": str(record.parent) if record.parent else "",
        "Comment": history.comment if history else "",
        "Created": _time(config.created_ns),
        "DockerVersion": "",
        "Author": config.author,
        "Config": config.config.document(),
        "Architecture": config.platform.architecture,
        **({"Variant": config.platform.variant} if config.platform.variant else {}),
        "Os": config.platform.os,
        "Size": image.size,
        "GraphDriver": {
            "Name": "layerfs",
            "Data": {"LayerTrees": [str(root.tree_path("layer", d.hex)) for d in record.diff_ids]},
        },
        "RootFS": {"Type": "layers", "Layers": [str(d) for d in record.diff_ids]},
        "Metadata": {"LastTagTime": _NEVER},
    }


def _digest_names(image: Image) -> list[Any]:
    from layerfs.image.images import Images

    return [t for t in Images(image.store.root).tags(image.record.id) if t.by_digest]


def _state(box: Container) -> dict[str, Any]:
    state = box.state
    return {
        "Status": box.status,
        "Running": state.running,
        "Paused": paused(box),
        "Restarting": state.restarting,
        "OOMKilled": oom_killed(box),
        "Dead": False,
        "Pid": state.pid,
        "ExitCode": state.code,
        "Error": state.message,
        "StartedAt": _time(state.started_at),
        "FinishedAt": _time(state.finished_at),
        **({"Health": health} if (health := box.health) else {}),
    }


def _file(box: Container, name: str) -> str:
    """Where one of the files is that lie over the image's /etc; "" while nothing runs: a start makes them anew."""
    found = run_files(box.directory / "run", name)
    return str(found[0]) if found else ""


def inspect_container(box: Container, *, size: bool = False) -> dict[str, Any]:
    record, settings = box.record, box.settings
    config = box.config()
    called = record.config.get("image_name") or f"sha256:{record.image}"
    argv = [*(config.entrypoint or ()), *(config.cmd or ())]
    table = box.store.container_table
    document = {
        "Id": record.id,
        "Created": _time(record.created_ns),
        "Path": argv[0] if argv else "",
        "Args": argv[1:],
        "State": _state(box),
        "Image": f"sha256:{record.image}",
        "ResolvConfPath": _file(box, "resolv.conf"),
        "HostnamePath": _file(box, "hostname"),
        "HostsPath": _file(box, "hosts"),
        "LogPath": "" if settings.log_driver == "none" else str(log_file(box)),
        "Name": f"/{record.name}",
        "RestartCount": box.state.life.restarts,
        "Driver": "layerfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(box, settings),
        "GraphDriver": {
            "Name": "layerfs",
            "Data": {
                "LowerDir": ":".join(map(str, lower_paths(box.store, record))),
                "UpperDir": str(table.upper(record)),
                "WorkDir": str(table.work(record)),
                "MergedDir": str(table.merged(record.id)),
            },
        },
        "Mounts": list(mount_points(box.store, settings)),
        "Config": _config(box) | {"Image": called},
        "NetworkSettings": network_settings(box, settings),
    }
    if size:
        sizes = box.sizes()
        document |= {"SizeRw": sizes.writable, "SizeRootFs": sizes.writable + sizes.image}
    return document


def _host_config(box: Container, settings: Settings) -> dict[str, Any]:
    return {
        "Binds": list(settings.volumes) or None,
        **_ABSENT,
        **_paths(settings),
        "NetworkMode": settings.network,
        "PortBindings": _port_bindings(settings),
        "PublishAllPorts": settings.publish_all,
        "IpcMode": settings.ipc or "private",
        "PidMode": settings.pid or "",
        "UTSMode": settings.uts or "",
        "Runtime": settings.runtime or "layerfs",
        "UsernsMode": settings.userns or "",
        "CgroupnsMode": settings.cgroupns or ("private" if unified_cgroups() else "host"),
        "RestartPolicy": dict(zip(("Name", "MaximumRetryCount"), _restart(settings), strict=True)),
        "AutoRemove": settings.auto_remove,
        "Init": settings.init or None,
        "LogConfig": {"Type": settings.log_driver, "Config": dict(settings.log_opts)},
        "Privileged": settings.privileged,
        "ReadonlyRootfs": settings.read_only,
        "Links": [_link(box, text) for text in settings.links] or None,
        "Annotations": dict(text.partition("=")[::2] for text in settings.annotations) or None,
        "CapAdd": list(settings.cap_add) or None,
        "CapDrop": list(settings.cap_drop) or None,
        "SecurityOpt": _security(settings) or None,
        "StorageOpt": dict(t.partition("=")[::2] for t in settings.storage_opt) or None,
        **_limits(settings),
        "Tmpfs": dict(t.partition(":")[::2] for t in settings.tmpfs) or None,
    }


def _paths(settings: Settings) -> dict[str, list[str] | None]:
    """What of /proc and /sys is hidden, and what cannot be written to."""
    found = {"MaskedPaths": MASKED_PATHS, "ReadonlyPaths": READ_ONLY_PATHS}
    if settings.privileged:
        return dict.fromkeys(found)
    return {name: [] if settings.unmasked else list(map(os.fsdecode, paths)) for name, paths in found.items()}


def _link(box: Container, text: str) -> str:
    name, _, alias = text.partition(":")
    return f"/{name}:/{box.name}/{alias or name}"


def _security(settings: Settings) -> list[str]:
    wanted = ["no-new-privileges"] if settings.no_new_privileges else []
    wanted += ["systempaths=unconfined"] if settings.unmasked else []
    return wanted + ([f"seccomp={settings.seccomp}"] if settings.seccomp else [])


def _port_bindings(settings: Settings) -> dict[str, list[dict[str, str]]]:
    from layerfs.runtime.ports import parse_publish

    found: dict[str, list[dict[str, str]]] = {}
    for each in (port for text in settings.publish for port in parse_publish(text)):
        number = "" if not each.host_first else str(each.host_first)
        number += f"-{each.host_last}" if each.host_last > each.host_first else ""
        found.setdefault(f"{each.port}/{each.protocol}", []).append({"HostIp": each.host_ip, "HostPort": number})
    return found


def _limits(settings: Settings) -> dict[str, Any]:
    """docker's names of what limits a container."""
    r = settings.resources
    rates = {
        "".join(part.title() for part in name.split("_")).replace("Iops", "IOps"): [
            {"Path": device.path, "Weight" if "weight" in name else "Rate": device.rate} for device in getattr(r, name)
        ]
        for name in (
            *("blkio_weight_device", "device_read_bps", "device_write_bps"),
            *("device_read_iops", "device_write_iops"),
        )
    }
    return {
        "CpuShares": r.cpu_shares,
        "Memory": r.memory,
        "NanoCpus": r.nano_cpus,
        "CgroupParent": settings.cgroup_parent or "",
        "BlkioWeight": r.blkio_weight,
        **{f"Blkio{name}" if name.startswith("Device") else name: value for name, value in rates.items()},
        "CpuPeriod": r.cpu_period,
        "CpuQuota": r.cpu_quota,
        "CpusetCpus": r.cpuset_cpus,
        "CpusetMems": r.cpuset_mems,
        "Devices": [_device(text) for text in settings.devices],
        "DeviceCgroupRules": [str(rule) for rule in r.device_cgroup_rules] or None,
        "MemoryReservation": r.memory_reservation,
        "MemorySwap": r.memory_swap or 2 * r.memory,
        "MemorySwappiness": r.memory_swappiness,
        "OomKillDisable": r.oom_kill_disable,
        "OomScoreAdj": settings.oom_score_adj or 0,
        "PidsLimit": r.pids_limit or None,
        "Ulimits": [_ulimit(text) for text in settings.ulimits],
        "Sysctls": dict(text.partition("=")[::2] for text in settings.sysctls) or None,
        "GroupAdd": list(settings.group_add) or None,
        "ExtraHosts": list(settings.extra_hosts) or None,
        "Dns": list(settings.dns),
        "DnsOptions": list(settings.dns_options),
        "DnsSearch": list(settings.dns_search),
        "ShmSize": settings.shm_size or 64 << 20,
    }


def _device(text: str) -> dict[str, str]:
    from layerfs.runtime.flags import Device

    device = Device.parse(text)
    return {"PathOnHost": device.source, "PathInContainer": device.target, "CgroupPermissions": device.access}


def _ulimit(text: str) -> dict[str, Any]:
    from layerfs.runtime.flags import parse_ulimit

    limit = parse_ulimit(text)
    return {"Name": text.partition("=")[0], "Hard": limit.hard, "Soft": limit.soft}


def _restart(settings: Settings) -> tuple[str, int]:
    name, _, most = settings.restart.partition(":")
    return name or "no", int(most or 0)


def _config(box: Container) -> dict[str, Any]:
    """docker's, with the fields of the container's own."""
    settings = box.settings
    return {
        "Hostname": settings.hostname or box.id[:12],
        "Domainname": settings.domainname or "",
        "AttachStdin": settings.stdin_once,
        "AttachStdout": not settings.detached,
        "AttachStderr": not settings.detached,
        "Tty": settings.tty,
        "OpenStdin": settings.interactive,
        "StdinOnce": settings.stdin_once,
        "User": "",
        **dict.fromkeys(("Env", "Cmd", "Volumes", "Entrypoint", "OnBuild")),
        "WorkingDir": "",
        "Labels": {},
        **box.config().document(),
        **({"StopTimeout": settings.stop_timeout} if settings.stop_timeout is not None else {}),
    }

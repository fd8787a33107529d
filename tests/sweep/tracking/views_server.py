"""A `WandbServer` that also keeps workspaces and reports, which W&B calls views."""

from __future__ import annotations

from tests.sweep.tracking.wandb_server import WandbServer, wandb_server


class ViewsServer(WandbServer):
    """A W&B server with projects in which views can be saved."""

    def __init__(self):
        super().__init__()
        self.projects = ["expander-sae"]
        self.saved = {}  # view id -> the variables it was saved with
        self.operations |= {
            "GetProjects": self._projects,
            "ProjectInternalId": lambda given: {"project": {"id": "p", "internalId": "7"}},
            "UpsertView2": self._save,
            "upsertView": self._save,
        }

    def _projects(self, given):
        shared = {"__typename": "Project", "createdAt": "2026-01-01T00:00:00Z", "isBenchmark": False, "user": None}
        nodes = [{**shared, "id": name, "name": name, "entityName": given["entity"]} for name in self.projects]
        info = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": node, "cursor": node["id"]} for node in nodes], "pageInfo": info}}

    def _save(self, given):
        inserted = given.get("id") is None
        view_id = given["id"] if not inserted else f"view{len(self.saved)}"
        self.saved[view_id] = given
        project = {"id": "p", "name": given["projectName"], "entityName": given["entityName"]}
        kept = ("name", "type", "displayName", "description", "spec")
        view = {"id": view_id, "project": project, **{name: given[name] for name in kept}, "updatedAt": None}
        return {"upsertView": {"view": view, "inserted": inserted}}


def views_server():
    """Return a context in which a `ViewsServer` answers."""
    return wandb_server(ViewsServer())

"""ServerApp: hands the engine that the run config names to the federation."""

from contextlib import closing

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server_app.cohort import CohortGrid
from server_app.federation import run_federation
from task.config import RunConfig
from task.paths import project_folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run federated training as the run config says."""
    config = RunConfig.from_flat(context.run_config).with_absolute_paths(project_folder())
    if config.engine.name == "flower":
        run_federation(grid, config)
        return
    with closing(CohortGrid(config)) as cohort:
        run_federation(cohort, config)

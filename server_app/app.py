"""ServerApp: hands the engine that the run config names to the federation."""

from contextlib import closing

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server_app.cohort import CohortGrid
from server_app.federation import run_federation
from server_app.scoring_run import run_scoring
from task.config import RunConfig
from task.paths import project_folder

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train across groups, or let them score responses, as the run config says."""
    config = RunConfig.from_flat(context.run_config).with_absolute_paths(project_folder())
    run = run_scoring if config.score.rollouts else run_federation
    if config.engine.name == "flower":
        run(grid, config)
        return
    with closing(CohortGrid(config)) as cohort:
        run(cohort, config)

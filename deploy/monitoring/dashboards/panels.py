"""The panels that all dashboards are made of: single numbers and curves over time, of Prometheus queries.

Queries are written with SELECT for the labels that the dashboard's variables choose, and WINDOW for the time that rates
are taken over.
"""

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

ROW = 24  # columns of Grafana's grid


def with_labels(query: str) -> str:
    return query.replace("SELECT", 'namespace=~"$namespace"').replace("WINDOW", "[$__rate_interval]")


def queries(panel, series: dict[str, str]):
    """Adds queries, given by the names that their series get in the legend."""
    for index, (legend, query) in enumerate(series.items()):
        panel.with_target(Dataquery().expr(with_labels(query)).legend_format(legend).ref_id(chr(ord("A") + index)))
    return panel


def number(title: str, unit: str, query: str, description: str):
    """One number, a quarter of a row wide."""
    panel = stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).height(4).span(ROW // 4)
    panel.graph_mode(BigValueGraphMode.NONE).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return queries(panel, {title: query})


def curves(title: str, unit: str, series: dict[str, str], description: str, stacked: bool = False):
    """Curves over time, half a row wide."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE)
    panel.height(8).span(ROW // 2).min(0).legend(legend.show_legend(True)).fill_opacity(30 if stacked else 5)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    return queries(panel, series)


def percentiles(histogram: str) -> dict[str, str]:
    """The three percentiles that people ask for, of a histogram of all nodes."""
    return {f"p{percent}": f"histogram_quantile({percent / 100}, sum by (le) (rate({histogram}_bucket{{SELECT}}WINDOW)))"
            for percent in (50, 95, 99)}


def dashboard(uid: str, title: str, description: str, panels: list) -> Dashboard:
    made = (
        Dashboard(title).uid(uid).description(description).tags(["kvship"]).time("now-1h", "now").refresh("30s")
        .timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR).readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("namespace").label("Namespace").datasource(SOURCE)
            .query("label_values(kvship_decode_ready, namespace)").refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True).all_value(".*").multi(True)))
    for number_of_panel, panel in enumerate(panels, start=1):
        made.with_panel(panel.id(number_of_panel))
    return made

"""The evidence of a run: plots, a gallery and one self-contained HTML page."""

from s5.report.class_counts import count_classes
from s5.report.confusion import plot_confusion
from s5.report.curves import plot_curves
from s5.report.display import color_mask, display_rgb
from s5.report.footprints import plot_footprints
from s5.report.gallery import GalleryRow, gallery_rows, plot_gallery
from s5.report.health import collapse_warnings, fairness_warnings
from s5.report.inputs import ReportInputs, SceneLink
from s5.report.page import render_report
from s5.report.palette import class_colors
from s5.report.scene_page import draw_scene
from s5.report.selection import plot_selection
from s5.report.verdict import Verdict, judge

__all__ = [
    "GalleryRow",
    "ReportInputs",
    "SceneLink",
    "Verdict",
    "class_colors",
    "collapse_warnings",
    "color_mask",
    "count_classes",
    "display_rgb",
    "draw_scene",
    "fairness_warnings",
    "gallery_rows",
    "judge",
    "plot_confusion",
    "plot_curves",
    "plot_footprints",
    "plot_gallery",
    "plot_selection",
    "render_report",
]

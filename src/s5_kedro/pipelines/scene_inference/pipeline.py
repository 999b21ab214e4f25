"""A finished model and scenes in, maps out."""

from kedro.pipeline import Pipeline, node

from s5_kedro.pipelines.scene_inference.nodes import check_scenes, map_scenes


def create_pipeline() -> Pipeline:
    return Pipeline(
        [
            node(
                map_scenes,
                inputs=["finetuned_model", "params:dataset", "params:scene", "params:compute"],
                outputs="scene_maps",
                name="map_scenes",
            ),
            node(check_scenes, inputs="scene_maps", outputs="scene_areas", name="check_scenes"),
        ]
    )

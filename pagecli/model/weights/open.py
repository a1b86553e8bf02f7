"""Opens the weights of a model that was found, whatever kind of file holds them."""

from pagecli.model.registry import ModelSource
from pagecli.model.weights import WeightSource


def open_weights(source: ModelSource) -> WeightSource:
    """Each kind's module is imported when it is needed: gguf alone takes 0.25 s, pickles need torch."""
    if source.kind == "dummy":
        from pagecli.model.weights.dummy import DummySource

        return DummySource()
    assert source.weights_path is not None
    if source.kind == "gguf":
        from pagecli.model.weights.gguf_file import GgufSource

        return GgufSource(source.weights_path, source.config)
    if source.kind == "pickle":
        from pagecli.model.weights.pickle_file import PickleSource

        return PickleSource(source.weights_path)
    from pagecli.model.weights.safetensors_file import SafetensorsSource

    return SafetensorsSource(source.weights_path)

"""The life of a call in the parent: queue, dispatcher, pipeline, futures and streams."""

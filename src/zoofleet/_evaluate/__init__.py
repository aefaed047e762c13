"""The accuracy of models on folders of images or clips with annotations.

    from zoofleet import Client
    from zoofleet._evaluate import evaluate, open_dataset

    dataset = open_dataset("resnet50", Path("imagenet/val"))
    with Client() as client:
        print(evaluate(client, dataset).metrics["acc@1"])

To measure without a cluster, call `metric = dataset.new_metric()`, then `metric.add(sample, outcome)` for each of
`dataset.samples`.
"""

from zoofleet._evaluate.average_precision import AveragePrecision
from zoofleet._evaluate.datasets import Dataset, open_dataset
from zoofleet._evaluate.evaluation import Evaluation, Failure
from zoofleet._evaluate.metrics import EndPointError, MeanIou, Metric, Sample, Scores, TopK
from zoofleet._evaluate.report import Row, published, require_task, rows
from zoofleet._evaluate.runs import Progress, evaluate

__all__ = [
    "AveragePrecision",
    "Dataset",
    "EndPointError",
    "Evaluation",
    "Failure",
    "MeanIou",
    "Metric",
    "Progress",
    "Row",
    "Sample",
    "Scores",
    "TopK",
    "evaluate",
    "open_dataset",
    "published",
    "require_task",
    "rows",
]

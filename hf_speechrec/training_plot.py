"""A run's history → a picture of its losses and rates."""

import os


def plot_history(history: list[dict[str, float]], path: str | os.PathLike) -> None:
    """Draw the losses and the WER or accuracy of a Trainer's `log_history` over the epochs, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, loss_axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    rate_axis = loss_axis.twinx()
    for axis, key, label, colour in (
        (loss_axis, "loss", "training loss", "tab:blue"),
        (loss_axis, "eval_loss", "held-out loss", "tab:orange"),
        (rate_axis, "eval_wer", "held-out WER", "tab:green"),
        (rate_axis, "eval_accuracy", "held-out accuracy", "tab:green"),
    ):
        points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label, color=colour)
            axis.set_ylabel(label.replace("training ", "").replace("held-out ", ""))
    loss_axis.set(xlabel="epoch", yscale="log")
    rate_axis.set(ylim=(0, 1))
    rate_axis.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    rate_axis.set_visible(bool(rate_axis.lines))
    if loss_axis.lines or rate_axis.lines:
        figure.legend(loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


__all__ = ["plot_history"]

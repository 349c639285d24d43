"""The Gradio page: here, or as a Space."""

from typing import Annotated

import typer

from .common import LmOption, app, clear_errors, quiet_libraries

RecognizerOption = Annotated[str, typer.Option("--model", help="The recogniser: a bundled name, a folder, a Hub id.")]
ClassifierOption = Annotated[str, typer.Option("--classifier", help="The classifier of commands, likewise.")]


@app.command()
def demo(
    model: RecognizerOption = "an4",
    classifier: ClassifierOption = "speech-commands",
    lm: LmOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for other machines too.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default the first free one from 7860.")] = None,
    share: Annotated[bool, typer.Option("--share", help="Also give it a public address for some days.")] = False,
) -> None:
    """
    Show a model in a browser: words while you speak, files, commands, a look inside.

    A language model is for files; what is said into the microphone is written without one.

    - `hf-speechrec demo`
    - `hf-speechrec demo --model runs/mine --classifier user/commands --port 8000`
    - `hf-speechrec demo --model librispeech-mini --lm model`
    """
    with clear_errors(), quiet_libraries():
        try:
            from ..demo import launch
        except ImportError as error:
            raise ValueError(f"the page needs the extra demo: pip install 'hf_speechrec[demo]' ({error})") from None
        launch(model, classifier, lm, server_name=host, server_port=port, share=share)


@app.command()
def push_space(
    repo_id: Annotated[str, typer.Argument(help="Its name on the Hub: user/name.")],
    model: RecognizerOption = "an4",
    classifier: ClassifierOption = "speech-commands",
    private: Annotated[bool | None, typer.Option("--private/--public", help="Who sees a new Space.")] = None,
) -> None:
    """
    Publish the page as a Gradio Space, with this package inside. The models are bundled ones, or on the Hub.

    - `hf-speechrec push runs/mine user/mine`
    - `hf-speechrec push-space user/demo --model user/mine`
    """
    from ..space import push_space as run

    with clear_errors(), quiet_libraries():
        typer.echo(run(repo_id, model, classifier, private=private))

"""ExecuTorch's LLM runner, called in a child process: it aborts on programs that it does not expect."""

from __future__ import annotations

import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from conformance.core.time_scale import scaled
from conformance.core.verdicts import ChildDiedError, NotRunError, Stage, StageError, Verdict
from conformance.decoding.custom_operators import register_operators_of
from conformance.decoding.tokenizers import RunnerTokenizer
from conformance.process.fork import collect, ending

#: Seconds for a conversation with a tiny model, which takes less than one.
DEFAULT_SECONDS = scaled(120)
#: How much of the runner's output a message quotes.
_LAST_LINES, _LAST_CHARACTERS = 4, 600
#: Behind the reason of a failed kernel, ExecuTorch lists the kernel's inputs.
_INPUTS = re.compile(r"arg \d+ with type id \d+$")


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of `generate`.

    Args:
        prompt: Token ids, at least one.
        text: The text that the runner reads as these.
        most: `max_new_tokens`, the answer's first token included; -1 for as many as there is room for.
        again: Whether `reset()` comes before it; if not, the conversation goes on.
        num_bos: As in `GenerationConfig`: whether the runner adds what begins a text.
    """

    prompt: tuple[int, ...]
    text: str
    most: int = -1
    again: bool = False
    num_bos: int = 0

    def __str__(self) -> str:
        bound = "" if self.most < 0 else f", at most {self.most} tokens"
        bos = f", num_bos={self.num_bos}" if self.num_bos else ""
        return f"{'reset, ' if self.again else ''}prompt {list(self.prompt)}{bos}{bound}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of `generate` in a turn.

    Args:
        pieces: The answer, one piece of text a token.
        refusal: The runner's error and the end of its output, if it refused the prompt.
        cut: Whether the answer ends before a token that has no text by itself. ExecuTorch's Python binding cannot pass
            such a piece on, and ends the call; what the cache then holds is not known.
    """

    pieces: tuple[str, ...]
    refusal: str | None = None
    cut: bool = False


def import_llm_runner() -> None:
    """Load ExecuTorch's LLM runner into this process, and its children.

    Raises:
        NotRunError: The installed ExecuTorch has none.
    """
    try:
        import executorch.extension.llm.runner  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise NotRunError(f"this ExecuTorch has no LLM runner: {error}") from error


def converse(
    program: bytes,
    runner_tokenizer: RunnerTokenizer,
    conversations: Sequence[Sequence[Turn]],
    seconds: int = DEFAULT_SECONDS,
) -> Iterator[list[Answer]]:
    """The answers in each conversation, one for each turn; each has a new `TextLLMRunner` with `program`.

    One child process holds all of them: forking one costs as much as a short conversation.

    Args:
        program: An ExecuTorch program, as the bytes of a `.pte` file.
        runner_tokenizer: The runner's tokenizer.
        conversations: The prompts of each, in order.
        seconds: The time limit for each conversation.

    Raises:
        NotRunError: The installed ExecuTorch has no LLM runner, or lacks operators of the program.
        StageError: The runner does not load the program.
        ChildDiedError: The runner aborted, crashed or exceeded the time limit.
    """
    import_llm_runner()  # before forking, so that it is loaded once
    register_operators_of(program)

    with tempfile.TemporaryDirectory(prefix="conformance-runner-") as name:
        directory = Path(name)
        (directory / "model.pte").write_bytes(program)
        tokenizer = runner_tokenizer.install(directory)
        with _output_file(directory).open("wb") as output:
            results, code = collect(
                lambda: _held(directory, tokenizer, conversations, seconds), output=output.fileno(), seconds=seconds
            )
        printed = _output_file(directory).read_text(errors="replace")
    for number, turns in enumerate(conversations):
        answers = [answer for conversation, answer in results if conversation == number]
        if answers and isinstance(answers[0], str):
            raise StageError(Stage.LOAD, RuntimeError(answers[0]))
        if code and (len(answers) < len(turns) or number == len(conversations) - 1):
            raise _died(code, turns, len(answers), printed, seconds)
        yield answers


def _held(
    directory: Path, tokenizer: Path, conversations: Sequence[Sequence[Turn]], seconds: int
) -> Iterator[tuple[int, Answer | str]]:
    """In the child process: the number of a conversation, and an answer in it or the error of loading."""
    for number, turns in enumerate(conversations):
        signal.alarm(seconds)
        for answer in _answers(directory, tokenizer, turns):
            yield number, answer


def _answers(directory: Path, tokenizer: Path, turns: Sequence[Turn]) -> Iterator[Answer | str]:
    """An answer for each turn, or only the error if the program does not load."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    output = _output_file(directory)
    before = output.stat().st_size
    try:
        runner = TextLLMRunner(str(directory / "model.pte"), str(tokenizer))
    except RuntimeError as error:
        reason = str(error).replace(f"{directory}/", "")  # another one each time, and the message is the signature
        yield f"{reason}\nRunner output: {_last_lines(_since(before, output))}"
        return
    for turn in turns:
        if turn.again:
            runner.reset()
        pieces: list[str] = []
        config = GenerationConfig(max_new_tokens=turn.most, temperature=0.0, echo=False, num_bos=turn.num_bos)
        before = output.stat().st_size
        refusal, cut = None, False
        try:
            runner.generate(turn.text, config, token_callback=pieces.append)
        except UnicodeDecodeError:
            cut = True
        except RuntimeError as error:
            refusal = f"{error}; runner output: {_last_lines(_since(before, output))}"
        yield Answer(tuple(pieces), refusal, cut)


def _since(size: int, output: Path) -> str:
    """What was written to `output` after its first `size` bytes."""
    return output.read_bytes()[size:].decode(errors="replace")


def _output_file(directory: Path) -> Path:
    """Where the child's output goes."""
    return directory / "output"


def _died(code: int, turns: Sequence[Turn], answered: int, printed: str, seconds: int) -> ChildDiedError:
    timeout = code == -signal.SIGALRM
    how = f"exceeded its limit of {seconds} s" if timeout else ending(code)
    turn = turns[answered] if answered < len(turns) else "the end"
    message = f"LLM runner process {how} at turn {answered + 1}, {turn}; runner output: {_last_lines(printed)}"
    return ChildDiedError(Verdict.TIMEOUT if timeout else Verdict.CRASH, Stage.EXECUTE, message)


def _last_lines(printed: str) -> str:
    lines = [line.strip() for line in printed.splitlines() if line.strip() and not _INPUTS.search(line)]
    return " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:] or "none"

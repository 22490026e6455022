"""ExecuTorch's LLM runner, held in conversation in a process of its own: it aborts on what it does not expect."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import re
import signal
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from conformance.core.verdicts import ChildDiedError, NotRunError, Stage, StageError, Verdict
from conformance.decoding.tokenizers import RunnerTokenizer

#: Seconds for a conversation with a tiny model, which takes less than one. The kernel then ends the process.
DEFAULT_SECONDS = 120
#: What of a process's last words is shown.
_LAST_LINES, _LAST_CHARACTERS = 4, 600
#: Behind the reason of a failed kernel, ExecuTorch lists the kernel's inputs.
_INPUTS = re.compile(r"arg \d+ with type id \d+$")


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of `generate`.

    Args:
        prompt: Token ids, at least one.
        text: What the runner is given, which it reads as these.
        most: `max_new_tokens`, the answer's first token included; -1 for as many as there is room for.
        again: Whether `reset()` comes before it; if not, the conversation goes on.
    """

    prompt: tuple[int, ...]
    text: str
    most: int = -1
    again: bool = False

    def __str__(self) -> str:
        bound = "" if self.most < 0 else f", at most {self.most} tokens"
        return f"{'reset, ' if self.again else ''}prompt {list(self.prompt)}{bound}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn came to.

    Args:
        pieces: The answer as the runner tells it, one piece of text a token.
        refusal: Why it was refused, if it was, in the runner's own words.
        cut: Whether a token came that is no text by itself. ExecuTorch's Python binding cannot tell such a piece, and
            ends the call; what the cache then holds is not known.
    """

    pieces: tuple[str, ...]
    refusal: str | None = None
    cut: bool = False


def converse(
    program: bytes, runner_tokenizer: RunnerTokenizer, turns: Sequence[Turn], seconds: int = DEFAULT_SECONDS
) -> list[Answer]:
    """The answers of a new `TextLLMRunner` with `program`, turn by turn.

    Args:
        program: An ExecuTorch program, as the bytes of a `.pte` file.
        runner_tokenizer: The tokenizer.
        turns: What is asked of it, in order.
        seconds: How long all of it may take.

    Raises:
        NotRunError: The installed ExecuTorch has no LLM runner.
        StageError: It does not load the program.
        ProcessLostError: It aborted, crashed or hung.
    """
    try:
        import executorch.extension.llm.runner  # noqa: F401 - before forking, so that it is loaded once
    except (ImportError, RuntimeError) as error:
        raise NotRunError(f"this ExecuTorch has no LLM runner: {error}") from error

    with tempfile.TemporaryDirectory(prefix="conformance-runner-") as name:
        directory = Path(name)
        (directory / "model.pte").write_bytes(program)
        (directory / "words").touch()
        tokenizer = runner_tokenizer.install(directory)
        reading, writing = os.pipe()
        process = os.fork()  # not multiprocessing's, which lets no daemon have children; a cell is judged in one
        if process == 0:
            os.close(reading)
            _serve(writing, directory, tokenizer, tuple(turns), seconds)
        os.close(writing)  # or the end of the process would not be seen
        with os.fdopen(reading, "rb") as stream:
            received = list(_received(stream))
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        words = (directory / "words").read_text(errors="replace")
    if code:
        raise _lost(code, turns, received, words, seconds)
    first = next(iter(received), None)
    if isinstance(first, str):
        raise StageError(Stage.LOAD, RuntimeError(f"{first}\nIt said: {_last(words)}"))
    return received


def _received(stream: BinaryIO) -> Iterator[Any]:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):  # the last one may be cut short
        while True:
            yield pickle.load(stream)


def _serve(writing: int, directory: Path, tokenizer: Path, turns: tuple[Turn, ...], seconds: int) -> NoReturn:
    """The forked process: sends its answers, or, where the program does not load, why. It never returns."""
    code = 1
    try:
        faulthandler.disable()  # it would write into the traceback of the process that this one was forked from
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        words = os.open(directory / "words", os.O_WRONLY | os.O_APPEND)
        os.dup2(words, 1)
        os.dup2(words, 2)
        with os.fdopen(writing, "wb") as stream:
            for answer in _answers(directory, tokenizer, turns):
                pickle.dump(answer, stream)
                stream.flush()
        code = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)  # not through the clean-up that belongs to the process it was forked from


def _answers(directory: Path, tokenizer: Path, turns: tuple[Turn, ...]) -> Iterator[Answer | str]:
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    try:
        runner = TextLLMRunner(str(directory / "model.pte"), str(tokenizer))
    except RuntimeError as error:
        yield str(error).replace(f"{directory}/", "")  # another one each time, and the message is the signature
        return
    for turn in turns:
        if turn.again:
            runner.reset()
        pieces: list[str] = []
        config = GenerationConfig(max_new_tokens=turn.most, temperature=0.0, echo=False)
        before = (directory / "words").stat().st_size
        refusal, cut = None, False
        try:
            runner.generate(turn.text, config, token_callback=pieces.append)
        except UnicodeDecodeError:
            cut = True
        except RuntimeError as error:
            said = (directory / "words").read_bytes()[before:].decode(errors="replace")
            refusal = f"{error}; it said: {_last(said)}"
        yield Answer(tuple(pieces), refusal, cut)


def _lost(code: int, turns: Sequence[Turn], received: Sequence[object], words: str, seconds: int) -> ChildDiedError:
    timeout = code == -signal.SIGALRM
    what = f"was over its {seconds} s" if timeout else f"died {_death(code)}"
    turn = turns[len(received)] if len(received) < len(turns) else "the end"
    told = f"the LLM runner's process {what} at turn {len(received) + 1}, {turn}; its last words: {_last(words)}"
    return ChildDiedError(Verdict.TIMEOUT if timeout else Verdict.CRASH, Stage.EXECUTE, told)


def _death(code: int) -> str:
    return f"of {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _last(words: str) -> str:
    lines = [line.strip() for line in words.splitlines() if line.strip() and not _INPUTS.search(line)]
    return " | ".join(lines[-_LAST_LINES:])[-_LAST_CHARACTERS:] or "nothing"

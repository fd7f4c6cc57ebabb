"""Reading what newcomers ask, a bounded piece in each step, the longest waiting first."""

from collections.abc import Callable, Sequence

from llama_omni.audio import SAMPLE_RATE
from llama_omni.engine.context import SpokenTurn
from llama_omni.engine.listening import listen
from llama_omni.engine.settings import EngineSettings
from llama_omni.engine.talk import Job, Stage
from llama_omni.interfaces import Audio
from llama_omni.model.omni import OmniModel

Guard = Callable[[Job, Callable[[], None]], bool]


class Intake:
    """Hears questions and reads prompts within a step's bounds.

    Args:
        model: hears.
        settings: `listen_s` and `prefill_positions`.
        guard: runs a piece of one reply's work; False where that failed, and the reply with it.
    """

    def __init__(self, model: OmniModel, settings: EngineSettings, guard: Guard) -> None:
        self._model, self._settings, self._guard = model, settings, guard
        self.reused_positions = self.read_positions = 0

    def work(self, jobs: Sequence[Job]) -> None:
        """Do one step's share; committed replies first, then by arrival."""
        samples = int(self._settings.listen_s * SAMPLE_RATE)
        positions = self._settings.prefill_positions
        heard = 0
        for job in sorted(jobs, key=lambda job: (not job.committed, job.key)):
            waiting = job.unheard()
            for digest, turn in waiting:
                assert turn.audio is not None
                if heard and heard + len(turn.audio) > samples:
                    break
                heard += len(turn.audio)
                if not self._guard(job, lambda d=digest, j=job, a=turn.audio: self._hear(j, d, a)):
                    break
            if job.stage is not Stage.READING or job.unheard():
                continue
            if not job.begun and not self._guard(job, lambda j=job: self._begin(j)):
                continue
            context = job.talk.context
            assert context is not None
            if positions:
                before = context.unread
                self._guard(job, lambda j=job, p=positions: self._read(j, p))
                positions -= min(positions, before)

    def _hear(self, job: Job, digest: str, sound: Audio) -> None:
        job.talk.spoken[digest] = listen(self._model, sound, job.phases)

    def _begin(self, job: Job) -> None:
        context = job.talk.context
        assert context is not None
        context.begin(job.prompt, [job.talk.spoken[digest] for digest, _ in job.sounds])
        job.begun = True
        self.reused_positions += context.reused

    def _read(self, job: Job, positions: int) -> None:
        context = job.talk.context
        assert context is not None
        before = context.length
        with job.phases("prefill_s"):
            job.hidden = context.advance(positions)
        self.read_positions += context.length - before
        if job.hidden is not None:
            job.stage = Stage.SPEAKING
            job.talk.note_start(job.generation, context.length)
            spoken = job.talk.spoken
            for digest, _ in job.sounds:  # needed again only when the slot was evicted
                turn = spoken[digest]
                spoken[digest] = SpokenTurn(turn.embeddings.cpu(), turn.digest)

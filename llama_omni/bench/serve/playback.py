"""A listener's playback, on the client's own clock: which pieces of a reply came too late."""


class PlaybackClock:
    """Plays one reply at once, without a start-up buffer.

    A piece is late where all that came before it had been played when it came; the listener hears
    a gap, and goes on from there. The first piece begins the reply and is never late.
    """

    def __init__(self) -> None:
        self.pieces = 0
        self.late = 0  # of `pieces`
        self.stall_s = 0.0  # seconds of gaps
        self.sound_s = 0.0
        self.first_s: float | None = None  # the clock's reading when sound began
        self.ends_s = 0.0  # when all that came will have been played

    def arrive(self, now: float, lasts_s: float) -> None:
        """Take a piece that comes now and lasts so many seconds."""
        if self.first_s is None:
            self.first_s = self.ends_s = now
        elif now > self.ends_s:
            self.late += 1
            self.stall_s += now - self.ends_s
            self.ends_s = now
        self.pieces += 1
        self.sound_s += lasts_s
        self.ends_s += lasts_s

    def heard_s(self, now: float) -> float:
        """Return the seconds of sound that have been played by now."""
        return self.sound_s - max(0.0, self.ends_s - now)

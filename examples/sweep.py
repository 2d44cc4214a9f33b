"""A parameter sweep: python examples/sweep.py

Each learning rate is tried by an actor of its own, which tells a board how it gets on. The driver
looks at the board, and cancels the worse half until one is left. What is cancelled is the call: the
actors live on, and can still be asked how far they got.
"""

import time

import numpy as np

import pyray as ray

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 3.0)


@ray.remote(num_cpus=0)
class Board:
    """Losses of all trials, as they were last reported."""

    def __init__(self):
        self.losses = {}

    def report(self, rate, loss):
        self.losses[rate] = loss

    def standings(self):
        return sorted(self.losses.items(), key=lambda entry: entry[1])


@ray.remote(num_cpus=0.25)
class Trial:
    """Fits a line through points by gradient descent."""

    def __init__(self, rate, points, board):
        self.rate, self.board = rate, board
        self.x, self.y = points  # views of shared memory: all trials read the same
        self.weights = np.zeros(self.x.shape[1])
        self.step = 0

    def loss(self):
        return float(((self.x @ self.weights - self.y) ** 2).mean())

    def train(self):
        for self.step in range(1, 301):
            error = self.x @ self.weights - self.y
            self.weights -= self.rate * (self.x.T @ error) / len(error)
            if not np.isfinite(self.weights).all():
                raise FloatingPointError(f"rate {self.rate} diverges")
            self.board.report.remote(self.rate, self.loss())
            time.sleep(0.005)
        return self.weights

    def steps(self):
        return self.step


def main():
    """Run the sweep."""
    ray.init(num_cpus=2)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 8))
    points = ray.put((x, x @ np.arange(8.0)))
    board = Board.remote()
    trials = {rate: Trial.remote(rate, points, board) for rate in RATES}
    running = {rate: trial.train.remote() for rate, trial in trials.items()}
    while len(running) > 1:
        time.sleep(0.3)
        standings = [s for s in ray.get(board.standings.remote()) if s[0] in running]
        print("  ".join(f"{rate:g}: {loss:.3g}" for rate, loss in standings))
        for rate, _ in standings[len(running) // 2 :]:
            ray.cancel(running.pop(rate))
            print(f"  cancelled {rate:g} at step {ray.get(trials[rate].steps.remote())}")
    ((rate, ref),) = running.items()
    print(f"the best rate is {rate:g}; weights {ray.get(ref).round(2)}")


if __name__ == "__main__":
    main()

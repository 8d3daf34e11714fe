"""One process of a run: trains on the tiny sets and writes down what it saw.

python -m tests.distributed.worker JSON, with data, workdir, out, changes, and for several processes
coordinator, process_id, processes.
"""

import hashlib
import json
import pathlib
import sys


def main() -> None:
    arguments = json.loads(sys.argv[1])
    from softbio_jax.runs import parallel

    if "coordinator" in arguments:
        parallel.start_distributed(
            coordinator=arguments["coordinator"],
            process_id=arguments["process_id"],
            processes=arguments["processes"],
        )

    from softbio_jax.runs.session import Session
    from softbio_jax.train import loop
    from tests.runs.tiny import changed, config_on, run_of

    train, seen = Session.train, []

    def recorded(session: Session, batch):  # type: ignore[no-untyped-def]
        metrics = train(session, batch)
        seen.append(
            {
                "index": batch["index"].tolist(),
                "image": [hashlib.sha256(image.tobytes()).hexdigest() for image in batch["image"]],
                "loss": float(metrics["loss/total"]),
            }
        )
        return metrics

    Session.train = recorded  # type: ignore[method-assign]
    config = changed(config_on(arguments["data"]), **arguments["changes"])
    try:
        loop.train_and_evaluate(*run_of(config), pathlib.Path(arguments["workdir"]))
    finally:
        pathlib.Path(arguments["out"]).write_text(json.dumps(seen))


if __name__ == "__main__":
    main()

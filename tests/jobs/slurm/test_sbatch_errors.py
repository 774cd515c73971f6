"""What sbatch's words mean: an id, a sure refusal, or doubt."""

import pytest

from jobs.slurm.commands import ProgramOutput
from jobs.slurm.sbatch_errors import (
    RefusalKind,
    SubmitRefusal,
    SubmittedJob,
    UnknownSubmit,
    parse_submit_answer,
    parse_test_answer,
)

# --- sbatch


def said(errors: str = "", text: str = "", returncode: int | None = 1) -> ProgramOutput:
    return ProgramOutput(
        text=text, errors=errors, problem="" if returncode == 0 else "x", returncode=returncode, started=True
    )


def failed(reason: str, first: str = "") -> ProgramOutput:
    before = f"sbatch: error: {first}\n" if first else ""
    return said(f"{before}sbatch: error: Batch job submission failed: {reason}\n")


POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


@pytest.mark.parametrize("text", ["123\n", "123;alpha\n", "Welcome!\n---\n123\n"])
def test_the_id_is_read_with_and_without_a_cluster(text: str) -> None:
    assert parse_submit_answer(said(text=text, returncode=0)) == SubmittedJob("123")


def test_an_id_counts_even_if_sbatch_was_ended_after_it() -> None:
    assert parse_submit_answer(said(text="123\n", returncode=124)) == SubmittedJob("123")


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (failed(POLICY, "QOSMaxSubmitJobPerUserLimit"), RefusalKind.LIMIT),
        (failed(POLICY, "AssocGrpSubmitJobsLimit"), RefusalKind.LIMIT),
        (failed(POLICY), RefusalKind.LIMIT),
        (failed(POLICY, "QOSMaxWallDurationPerJobLimit"), RefusalKind.INVALID),
        (failed(POLICY, "QOSMaxGRESPerJob"), RefusalKind.INVALID),
        (
            failed("Resource temporarily unavailable", "Slurm temporarily unable to accept job, sleeping and retrying"),
            RefusalKind.FULL,
        ),
        (failed("Unable to create job record, try again"), RefusalKind.FULL),
        (failed("System submissions disabled"), RefusalKind.FULL),
        (said("sbatch: fatal: Unable to process configuration file\n"), RefusalKind.FULL),
        (failed("Invalid partition name specified", "invalid partition specified: nope"), RefusalKind.INVALID),
        (failed("Invalid qos specification"), RefusalKind.INVALID),
        (failed("Invalid account or account/partition combination specified"), RefusalKind.INVALID),
        (failed("Requested node configuration is not available"), RefusalKind.INVALID),
        (failed("Requested time limit is invalid (missing or exceeds some limit)"), RefusalKind.INVALID),
        (failed("Invalid job array specification"), RefusalKind.INVALID),
        (failed("Job dependency problem"), RefusalKind.INVALID),
        (failed("Unspecified error", "You must give an account"), RefusalKind.INVALID),
        (said("sbatch: error: Invalid --time specification\n", returncode=255), RefusalKind.INVALID),
        (said("sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\"\n", returncode=255), RefusalKind.INVALID),
        (said("timeout: failed to run command 'sbatch': No such file\n", returncode=127), RefusalKind.INVALID),
        (ProgramOutput(problem="timeout cannot be run: No such file or directory"), RefusalKind.INVALID),
    ],
)
def test_a_known_text_is_a_sure_refusal(output: ProgramOutput, kind: RefusalKind) -> None:
    """sisyphus#241: a full queue is no failure of a job."""
    answer = parse_submit_answer(output)
    assert isinstance(answer, SubmitRefusal)
    assert answer.kind is kind
    assert "\n" not in answer.reason
    assert answer.reason


@pytest.mark.parametrize(
    "output",
    [
        failed("Unable to contact slurm controller (connect failure)"),
        failed("Socket timed out on send/recv operation"),
        failed("Zero Bytes were transmitted or received"),
        failed("Invalid authentication credential"),
        failed("Slurm internal error, contact system administrator"),
        failed("Something new"),
        said("sbatch: error: something else\n"),
        said(returncode=124),
        said("sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n", returncode=124),
        said(returncode=137),
        said(returncode=None),
        said(returncode=-9),
        said(returncode=0),
        said(text="Submitted\n", returncode=0),
        said(text="12\n13\n", returncode=0),
        said(text="12", returncode=0),
        said(failed(POLICY).errors, text="12;"),
    ],
)
def test_everything_else_is_doubt(output: ProgramOutput) -> None:
    """aiida-core#3404, nextflow#970: it may have gone through."""
    answer = parse_submit_answer(output)
    assert isinstance(answer, UnknownSubmit)
    assert answer.reason
    assert "\n" not in answer.reason


def test_the_reason_names_the_limit_in_one_line() -> None:
    answer = parse_submit_answer(failed(POLICY, "QOSMaxSubmitJobPerUserLimit"))
    assert isinstance(answer, SubmitRefusal)
    assert answer.reason == f"{POLICY}; QOSMaxSubmitJobPerUserLimit"


def test_a_refusal_counts_though_a_site_prints_a_banner_before_it() -> None:
    refused = "sbatch: error: Batch job submission failed: Invalid qos specification\n"
    found = parse_submit_answer(said(refused, text="Welcome to the cluster\n"))
    assert found == SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    assert isinstance(parse_submit_answer(said(refused, text="Welcome\n12\n13\n")), UnknownSubmit)
    assert isinstance(parse_submit_answer(said("sbatch: error: nobody knows\n", text="Welcome\n")), UnknownSubmit)


def test_what_is_down_is_told_from_a_cluster_that_takes_nothing() -> None:
    found = parse_submit_answer(failed("Required partition not available (inactive or drain)"))
    assert isinstance(found, SubmitRefusal)
    assert found.kind is RefusalKind.DELAYED


def test_a_test_that_goes_well_prints_a_line_on_standard_error() -> None:
    line = "sbatch: Job 2 to start at 2026-11-29T19:37:35 using 1 processors on nodes n1 in partition main\n"
    assert parse_test_answer(said(line, returncode=0)) is None


@pytest.mark.parametrize("begin", ["allocation failure: ", "sbatch: error: allocation failure: "])
def test_a_refused_test_has_the_words_of_a_refused_submission(begin: str) -> None:
    words = "Invalid partition name specified"
    told = said(f"sbatch: error: invalid partition specified: nope\n{begin}{words}\n")
    refused = parse_test_answer(told)
    assert refused == SubmitRefusal(RefusalKind.INVALID, f"{words}; invalid partition specified: nope")
    assert refused == parse_submit_answer(failed(words, "invalid partition specified: nope"))


@pytest.mark.parametrize(
    "output",
    [
        said("allocation failure: Unable to contact slurm controller (connect failure)\n"),
        said("allocation failure: words of a later release\n"),
        said(returncode=None),
        ProgramOutput(problem="sbatch cannot be run", started=False),
    ],
    ids=["controller", "words", "time", "program"],
)
def test_a_test_without_a_known_answer_says_nothing_of_the_request(output: ProgramOutput) -> None:
    assert isinstance(parse_test_answer(output), UnknownSubmit)

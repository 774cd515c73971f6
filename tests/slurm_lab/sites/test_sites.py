"""A campaign on each kind of site ends with every job done once, and with the hours that Slurm accounts for."""

import pytest

from tests.slurm_lab.group_mates import find_group_mates
from tests.slurm_lab.sites.campaign import SiteSettings, run_campaign
from tests.slurm_lab.sites.hours import Sum, sum_rows
from tests.slurm_lab.sites.settings import SITES

ROW = {"ElapsedRaw": "6", "AllocTRES": "cpu=12,gres/gpu:a100=4,gres/gpu=4,mem=1G", "AllocCPUS": "12"}


@pytest.mark.slow
@pytest.mark.timeout(2_500)
@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_a_campaign_ends_with_each_job_done_once_and_the_hours_of_slurm(site: SiteSettings) -> None:
    if site.two_people and not find_group_mates():
        pytest.skip("processes of two other users cannot be started: it takes root, and a Python that they can read")
    problems, _ = run_campaign(site)
    assert problems == []


def test_a_row_of_sacct_counts_its_gpus_once() -> None:
    assert sum_rows([ROW, {**ROW, "AllocTRES": ""}]) == Sum(12, 24, 144, 2)


def test_a_second_more_is_seen() -> None:
    assert not Sum(gpu_seconds=24, cpu_seconds=144).is_near(Sum(gpu_seconds=25, cpu_seconds=144))

from types import SimpleNamespace

import pytest
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from trl.trainer.utils import RepeatSampler

from stages.core import training
from stages.core.checkpoints import Keeper, innermost

ROWS = list(range(24))


def loader(own_sampler: bool, processes: int):
    """One process's, as transformers' trainer has it: 2 rows a batch, shuffled."""
    sampler = training.epoch_sampler()(ROWS, 1, seed=3) if own_sampler else None
    plain = DataLoader(ROWS, batch_size=2, sampler=sampler, shuffle=None if own_sampler else True)
    return prepare_data_loader(
        plain, num_processes=processes, process_index=processes - 1, put_on_device=False,
        use_seedable_sampler=True, data_seed=3,
    )  # fmt: skip


def begin(loader, epoch: float) -> None:
    """What happens before an epoch's first batch; transformers' own call may not reach."""
    keeper = Keeper(None, SimpleNamespace(checkpoint_seconds=0, name="sft"), None)
    keeper.on_epoch_begin(None, SimpleNamespace(epoch=epoch), None, train_dataloader=loader)


def of_epoch(loader, epoch: float, skipped: int = 0) -> list[list[int]]:
    begin(loader, epoch)
    rest = skip_first_batches(loader, skipped) if skipped else loader
    rest.set_epoch(int(epoch))
    return [batch.tolist() for batch in rest]


@pytest.mark.parametrize("own_sampler", [True, False], ids=["ours", "accelerate's"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_later_epoch_goes_on_in_its_own_order(own_sampler, processes):
    whole = loader(own_sampler, processes)
    assert isinstance(innermost(whole), RepeatSampler) == own_sampler
    first, second = of_epoch(whole, 0.0), of_epoch(whole, 1.0)
    assert first != second and len(second) == 12 // processes
    for done in range(1, len(second)):
        resumed = of_epoch(loader(own_sampler, processes), 1 + done / len(second), done)
        assert resumed == second[done:]


def test_rows_in_their_own_order_need_no_epoch():
    plain = DataLoader(ROWS, batch_size=2)
    begin(plain, 1.0)
    assert next(iter(plain)).tolist() == [0, 1]

"""Event loops."""

import asyncio

from pydotcompute.ring_kernels._loop import (
    create_optimized_loop,
    get_loop_info,
    install_eager_task_factory,
    install_uvloop,
    is_eager_tasks_installed,
    is_uvloop_available,
    is_uvloop_installed,
    optimize_current_loop,
)


def use() -> None:
    loop: asyncio.AbstractEventLoop = create_optimized_loop()
    eager: bool = install_eager_task_factory(loop)
    fast: bool = install_uvloop()
    availability: tuple[bool, bool, bool] = (is_uvloop_available(), is_uvloop_installed(), is_eager_tasks_installed())
    info: dict[str, str | bool] = get_loop_info()
    done: dict[str, bool] = optimize_current_loop()
    print(eager, fast, availability, info, done)

import pytest

from services.rpc.call_room import NOT_COUNTED, CallRoom
from triptych.domain.errors import ResourceExhausted
from triptych.v1 import denoiser_service_pb2, stage_service_pb2, tensor_store_service_pb2

ENCODE = "/triptych.v1.EncoderService/Encode"


def test_calls_find_places_until_there_are_none() -> None:
    room = CallRoom(2)
    with room.place(ENCODE):
        with room.place(ENCODE), pytest.raises(ResourceExhausted), room.place(ENCODE):
            pass
        with room.place(ENCODE):
            pass


def test_what_ends_work_or_tells_how_much_there_is_always_finds_a_place() -> None:
    room = CallRoom(1)
    with room.place(ENCODE):
        for method in NOT_COUNTED:
            with room.place(method):
                pass


def test_what_is_not_counted_exists() -> None:
    files = (denoiser_service_pb2, stage_service_pb2, tensor_store_service_pb2)
    served = {
        f"/{service.full_name}/{method.name}"
        for file in files
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert served >= NOT_COUNTED

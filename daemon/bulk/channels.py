"""All channels of this host: made when a layer above needs a peer or a peer dials, kept between rounds.

Owns the table of channels, the threads that dial, and the bound on wires. Refuses to know what frames are for.
"""

import threading
from collections import Counter
from functools import partial

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.channel import Channel
from intellectd.daemon.bulk.channel_greeting import Answer, Greeted, Greeter
from intellectd.daemon.bulk.channel_wire import Wire
from intellectd.daemon.bulk.contacts import Contacts
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.dial import Dialler
from intellectd.daemon.bulk.errors import BulkClosed, BulkError, LinkLost, Stopped
from intellectd.daemon.bulk.frames import Handler
from intellectd.daemon.bulk.limits import CLOSE_S, GOODBYE_S, STREAMS_MAX, WIRES_MAX
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.meeting import Heard, Meetings
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.sharing import Sharing
from intellectd.daemon.bulk.streams import First, LinkMeasure, at_first
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import ChannelRequest


class Channels:
    """`sealed=False` sends everything in the clear, for benchmarks: both ends must agree, or no wire stands."""

    def __init__(
        self,
        peer_id: str,
        trust: TrustTable,
        crew: Crew,
        handler: Handler,
        *,
        sealed: bool = True,
        pace: Pace = UNLIMITED,
        contacts: Contacts | None = None,
        first: First = at_first,
        near: bool = False,
    ) -> None:
        """`first`: how many wires a channel begins with. `near`: chunks between processes of this host go by memory
        that both map, unless a rate is to be kept."""
        self._first = first
        self._me = peer_id
        self._trust = trust
        self._crew = crew
        self._handler = handler
        self._sealed = sealed
        self._pace = pace
        self.meetings = Meetings(Dialler(trust, contacts=contacts))
        self._greeter = Greeter(peer_id, sealed, Sharing(near and pace.up is None and pace.down is None))
        self._changed = threading.Condition(threading.Lock())
        self._channels: dict[str, Channel] = {}
        self._greeting: Counter[str] = Counter()  # by peer: requests that are being answered
        self._dialling: dict[str, Stop] = {}  # one thread for each channel that lacks a wire
        self._closed = False

    def need(self, peer: str, stall_s: float) -> Channel:
        """Keep the channel dialled until `release`; counted. `stall_s`: a wire on which what is begun does not move
        for so long is lost. Raises BulkClosed."""
        with self._changed:  # or it could be forgotten in between
            channel = self._made(peer)
            channel.need(stall_s)
        self._dial_if_lacking(channel)
        return channel

    def release(self, peer: str) -> None:
        """A transfer with the peer has ended. The channel stays, for the next, until it is idle for long."""
        with self._changed:
            channel = self._channels.get(peer)
        if channel is None:
            raise ValueError(f"nobody needs a channel to {peer}")
        channel.release()
        self._dial_if_lacking(channel)

    def accept(self, link: Link, request: ChannelRequest) -> None:
        """A peer has dialled: from the listener's thread, which is let go as soon as the wire stands. Takes the link
        over. Raises what a link does when the peer does not go through with it."""
        try:
            channel = self._channel(link.peer)
            answer = self._heard(link, request)
            try:
                greeted = self._answered(channel, answer, request.wires)
            except BaseException:
                answer.withdraw()
                raise
        except BulkClosed:
            link.close()
            return
        except BaseException:
            link.close()
            raise
        self._stand(channel, greeted, dialled=False)

    def _answered(self, channel: Channel, answer: Answer, listed: tuple[bytes, ...]) -> Greeted:
        channel.disown(listed, answer.link.began_s)
        self._make_room(channel)
        # Before the answer: once the dialler has that, a request from here must list the wire.
        channel.reserve(answer.keys.wire_id)
        try:
            return answer.give()
        except BaseException:
            channel.unreserve(answer.keys.wire_id)
            raise

    def _heard(self, link: Link, request: ChannelRequest) -> Answer:
        """Of one peer so many at once: or it keeps all threads of the listener waiting for what it does not say."""
        with self._changed:
            if self._greeting[link.peer] >= STREAMS_MAX:
                raise LinkLost(f"it has begun more than {STREAMS_MAX} connections at once")
            self._greeting[link.peer] += 1
        try:
            return self._greeter.hear(link, request)
        finally:
            with self._changed:
                self._greeting[link.peer] -= 1
                self._greeting += Counter()  # without those of none

    def measured(self, peer: str) -> LinkMeasure | None:
        with self._changed:
            channel = self._channels.get(peer)
        return None if channel is None else channel.meter.last(channel.wires)

    def probed(self, peer: str, measure: LinkMeasure) -> None:
        with self._changed:
            channel = self._channels.get(peer)
        if channel is not None:
            channel.meter.probed(measure)

    def wires(self) -> dict[str, int]:
        """How many stand, by peer, where any ever did."""
        with self._changed:
            channels = list(self._channels.values())
        return {channel.peer: len(channel.wires) for channel in channels}

    def offences(self) -> dict[str, int]:
        """How often each peer broke the protocol, for those that did."""
        with self._changed:
            return {peer: channel.offences for peer, channel in self._channels.items() if channel.offences}

    def recheck(self) -> None:
        """The trust table was replaced: wires to processes no longer in it end, new addresses are dialled."""
        with self._changed:
            channels = list(self._channels.values())
        for channel in channels:
            endpoint = self._trust.endpoint(channel.peer)
            channel.keep_only(None if endpoint is None else endpoint.certificate)
            if endpoint is None and not channel.is_needed and not channel.wires:
                self._forget(channel)
            else:
                channel.dial_anew()
                self._dial_if_lacking(channel)

    def close(self) -> None:
        """Say what is queued, but for chunks, take leave, and wait until no thread of a wire or a dial is at work."""
        with self._changed:
            self._closed = True
            channels = list(self._channels.values())
            for stop in self._dialling.values():
                stop.set()
        for channel in channels:
            channel.close()
        if not self._all_ended(GOODBYE_S):
            for channel in channels:
                for wire in channel.wires:
                    wire.end(None)
            self._all_ended(CLOSE_S)

    def _channel(self, peer: str) -> Channel:
        with self._changed:
            return self._made(peer)

    def _made(self, peer: str) -> Channel:
        """Under the lock."""
        if self._closed:
            raise BulkClosed()
        if peer not in self._channels:
            self._channels[peer] = Channel(
                self._me,
                peer,
                self._handler,
                self._wire_ended,
                self._first,
                self._share,
                partial(self.meetings.relay, peer),
            )
        return self._channels[peer]

    def _share(self) -> int:
        """Of WIRES_MAX for each channel that is needed: one with many peers cannot have many wires to each. Under no
        lock of its own: a channel asks under its."""
        needed = sum(channel.is_needed for channel in list(self._channels.values()))
        return max(1, WIRES_MAX // max(1, needed))

    def _forget(self, channel: Channel) -> None:
        with self._changed:
            is_known = self._channels.get(channel.peer) is channel
            if is_known and not channel.is_needed and channel.peer not in self._dialling:
                del self._channels[channel.peer]

    def _dial_if_lacking(self, channel: Channel) -> None:
        if not channel.lacks_wires() or not self._dialable(channel.peer):
            return
        try:
            stop = Stop()
        except OSError as error:  # of files: it is dialled when it is needed, or known, anew
            channel.dial_failed(LinkLost(f"this host cannot dial: {error.strerror}"))
            return
        with self._changed:
            if self._closed or channel.peer in self._dialling:
                stop.close()
                return
            self._dialling[channel.peer] = stop
        try:
            self._crew.start(f"bulk-dial-{channel.peer[-8:]}", partial(self._dial, channel, stop))
        except (BulkError, RuntimeError):
            self._dial_ended(channel, stop)

    def _dialable(self, peer: str) -> bool:
        """Not a peer that said that it has no address. One that is not known yet may be by the next attempt."""
        endpoint = self._trust.endpoint(peer)
        return endpoint is None or endpoint.address != "" or self.meetings.relay(peer) != ""

    def _dial(self, channel: Channel, stop: Stop) -> None:
        try:
            while not stop.is_set and self._dialable(channel.peer) and channel.await_dial():
                try:
                    self._make_room(channel)
                    greeted = self._greeter.dial(self.meetings, channel.peer, channel.wire_ids, stop)
                    self._stand(channel, greeted, dialled=True)
                except Stopped:
                    break
                except Heard:
                    continue
                except Exception as error:  # this host's own faults too: they are told, and tried again
                    channel.dial_failed(error)
        finally:
            self._dial_ended(channel, stop)
        self._dial_if_lacking(channel)  # what came to lack after the last look

    def _dial_ended(self, channel: Channel, stop: Stop) -> None:
        with self._changed:
            del self._dialling[channel.peer]
            stop.close()
            self._changed.notify_all()

    def _stand(self, channel: Channel, greeted: Greeted, *, dialled: bool) -> None:
        """Raises LinkLost when this host has no room for one more."""
        try:
            wire = Wire(
                channel.peer,
                channel,
                greeted.connection,
                greeted.keys,
                greeted.certificate,
                greeted.lanes,
                dialled=dialled,
                sealed=self._sealed,
                pace=self._pace,
            )
        except (OSError, MemoryError) as error:  # of files, of memory
            channel.unreserve(greeted.keys.wire_id)
            greeted.close()
            raise LinkLost(f"this host cannot keep the connection: {error}") from None
        if not channel.stand(wire):
            wire.discard()
            return
        endpoint = self._trust.endpoint(channel.peer)
        channel.keep_only(None if endpoint is None else endpoint.certificate)
        wire.start(self._crew)

    def _wire_ended(self, channel: Channel) -> None:
        self._dial_if_lacking(channel)
        with self._changed:
            self._changed.notify_all()

    def _make_room(self, channel: Channel) -> None:
        """For one more wire of this channel, at the cost of some that nobody needs. Raises LinkLost."""
        with self._changed:
            channels = list(self._channels.values())
        if sum(len(other.wires) + other.lingering for other in channels) < WIRES_MAX:
            return
        unneeded = [other for other in channels if other.wires and not other.is_needed and other is not channel]
        if not unneeded:
            self._spare_one(channel, channels)
            return
        for wire in min(unneeded, key=lambda other: other.used_s).wires[:STREAMS_MAX]:
            wire.end(LinkLost("its place was needed for another peer"))

    def _spare_one(self, channel: Channel, channels: list[Channel]) -> None:
        """All are needed: one that has none goes before another's many, which may stand since a transfer with fewer
        peers. Raises LinkLost."""
        most = max(channels, key=lambda other: len(other.at_work))
        if not channel.is_needed or channel.at_work or channel.lingering or len(most.at_work) < 2:
            raise LinkLost(f"this host has {WIRES_MAX} connections of channels, all of which are needed")
        most.at_work[-1].retire()

    def _all_ended(self, timeout_s: float) -> bool:
        until = now_s() + timeout_s
        with self._changed:
            while self._dialling or any(channel.wires for channel in self._channels.values()):
                if not self._changed.wait(until - now_s()) and now_s() >= until:
                    return False
        return True

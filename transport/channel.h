// Channel and FrameChannel are the two ends of one request's stream between two processes: the
// client's, and the serving one. Both move small messages, whose meaning they do not know; frames,
// whose payloads are taken and given without copying, go from the serving end alone. Sending never
// blocks: what the network has not taken yet waits in the channel, and it is the sender's part to
// stop sending when that grows. All methods are thread safe.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/buffer.h"
#include "base/frame_header.h"
#include "base/frame_staging.h"

namespace kvship {

// What happens to a client's channel. Events come one at a time, on threads of the transport: they
// must not wait for anything slow, and may call the channel. Spans are valid until the event
// returns.
class ChannelEvents {
 public:
  virtual ~ChannelEvents() = default;
  // The serialized message that the peer gave to SendMessage.
  virtual void OnMessage(std::span<const std::byte> message) = 0;
  // A frame. Nothing has been checked but that it could be read: neither checksum nor order.
  virtual void OnFrame(const FrameHeader& header, BytePieces payload) = 0;
  // The last event: how the peer, the network, a deadline or Close ended the stream. OK only if the
  // serving side closed it with OK.
  virtual void OnClosed(const absl::Status& status) = 0;
};

// What happens to a serving end; as ChannelEvents.
class FrameChannelEvents {
 public:
  virtual ~FrameChannelEvents() = default;
  virtual void OnMessage(std::span<const std::byte> message) = 0;
  // unsent_bytes() has become less.
  virtual void OnSent() = 0;
  virtual void OnClosed(const absl::Status& status) = 0;
};

// What comes besides where frames go from GPU to GPU.
class StagedFrameEvents : public ChannelEvents {
 public:
  // A frame that lies in this process's staging and has the announced checksum.
  virtual void OnStagedFrame(const FrameHeader& header, const FrameStaging::Block& payload) = 0;
};

// The part of a channel that sends frames from device memory.
class StagedFrameSender {
 public:
  virtual ~StagedFrameSender() = default;
  // As many blocks as are asked for, to be filled and sent; none if the channel would rather have
  // payloads in host memory at present.
  virtual std::vector<FrameStaging::BlockPtr> TakeFrames(size_t num_frames) = 0;
  virtual void SendStagedFrame(const FrameHeader& header, FrameStaging::BlockPtr payload) = 0;
};

class Channel {
 public:
  virtual ~Channel() = default;
  // Behind what was sent before; once the channel is closed what comes stays unsent.
  virtual void SendMessage(std::string message) = 0;
  // Ends the stream. With OK, after what was sent before has gone out; with an error, what is still
  // unsent is dropped. The serving side's error reaches the peer; a client's error is a
  // cancellation to the peer, also after its OK, which leaves the end to the serving side. Of other
  // calls only the first counts.
  virtual void Close(absl::Status status) = 0;
};

class FrameChannel : public Channel {
 public:
  // As SendMessage.
  virtual void SendFrame(const FrameHeader& header, SharedBytes payload) = 0;
  // Null where frames are sent from host memory alone.
  virtual StagedFrameSender* staged_frames() { return nullptr; }
  // Bytes sent that the network has not taken, those counted that a stream which has ended will
  // never send: 0 says that all have gone out.
  virtual size_t unsent_bytes() const = 0;
};

}  // namespace kvship

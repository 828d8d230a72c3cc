#include "decode_service/prefill_nodes.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/start_thread.h"
#include "decode_service/prefill_fault.h"
#include "kv/prefix_digests.h"
#include "kvship/v1/prefill.grpc.pb.h"
#include "rpc/errors.h"
#include "rpc/model_info.h"
#include "transport/grpc_status.h"

namespace kvship {
namespace {

using Standing = PrefillNode::Standing;

constexpr Standing kStandings[] = {Standing::kServing, Standing::kDraining, Standing::kEjected,
                                   Standing::kSilent, Standing::kUnfit};

// Where gRPC has not ended a check so long after its deadline, its timers stand still: they wait by
// the wall clock, which was set back. So does keepalive, which else ends a silent node's prompts.
constexpr absl::Duration kTimersGrace = absl::Seconds(3);

size_t RandomBelow(size_t bound) {
  thread_local std::minstd_rand random(std::random_device{}());
  return std::uniform_int_distribution<size_t>(0, bound - 1)(random);
}

bool KeepsPrefixes(const std::shared_ptr<PrefillNode>& node) { return node->keeps_prefixes(); }

}  // namespace

// One health check of a node.
struct PrefillNodes::Check {
  explicit Check(std::shared_ptr<PrefillNode> asked)
      : node(std::move(asked)),
        stub(v1::PrefillService::NewStub(node->connection().grpc_channel())),
        own_tokens(node->outstanding_tokens()) {}

  const std::shared_ptr<PrefillNode> node;  // shared: it may leave the list
  const std::unique_ptr<v1::PrefillService::Stub> stub;
  const uint64_t own_tokens;
  const absl::Time begun = MonotonicNow();
  bool overdue = false;  // cancelled by EndOverdueChecks; of the check thread
  grpc::ClientContext context;
  const v1::PrefillServiceGetModelInfoRequest request;
  v1::PrefillServiceGetModelInfoResponse response;
  grpc::Status status;
  bool answered = false;  // guarded by PrefillNodes::mutex_
};

PrefillNodes::PrefillNodes(Options options, DecodeMetrics& metrics)
    : options_(std::move(options)),
      metrics_(metrics),
      check_thread_(StartThread("prefill nodes", [this] { CheckAgainAndAgain(); })),
      addresses_(options_.targets, options_.look_up, options_.look_up_interval,
                 [this](const auto& names) { SetAddresses(names); }) {}

PrefillNodes::~PrefillNodes() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  check_thread_.join();
}

absl::StatusOr<PrefillNodes::Visit> PrefillNodes::Choose(std::span<const int32_t> prompt,
                                                         absl::string_view cache_salt,
                                                         const std::set<std::string>& tried,
                                                         Standing worst, size_t most_reused) {
  const Nodes known = nodes();  // destroyed without the lock: that may end connections
  std::vector<Sha256Digest> digests;
  if (std::any_of(known.begin(), known.end(), KeepsPrefixes)) {
    digests = PrefixDigests(prompt, cache_salt);
  }
  std::lock_guard lock(choice_mutex_);
  const absl::Time now = MonotonicNow();
  Nodes best;
  Standing best_standing = worst;
  for (const auto& node : known) {
    const Standing standing = node->standing(now);
    if (tried.contains(node->address()) || standing > best_standing) continue;
    if (standing < best_standing) best.clear();
    best_standing = standing;
    best.push_back(node);
  }
  if (best.empty()) return NoneCanServe(known, tried, now);
  const Choice choice = ChooseOf(best, digests, most_reused);
  const Visit visit = {
      .node = choice.node, .unread_tokens = prompt.size() - choice.cached_tokens, .begun = now};
  visit.node->NoteBegin(visit.unread_tokens);
  return visit;
}

PrefillNodes::Choice PrefillNodes::ChooseOf(const Nodes& best,
                                            std::span<const Sha256Digest> digests,
                                            size_t most_reused) {
  const PrefixPlaces::Place place = places_.Find(digests);
  size_t first = RandomBelow(best.size());
  if (place.address.empty() && !digests.empty()) {
    // Other decode nodes may know a beginning that is new here, and choose the same node.
    std::vector<absl::string_view> addresses;
    for (const auto& node : best) addresses.push_back(node->address());
    first = PreferredPlace(addresses, digests[0]);
  }
  // A single node is compared with itself.
  const size_t second =
      (first + 1 + RandomBelow(std::max<size_t>(1, best.size() - 1))) % best.size();
  const auto has_it = [&](const auto& node) {
    return node->address() == place.address && KeepsPrefixes(node);
  };
  Nodes drawn = {best[first], best[second]};
  std::copy_if(best.begin(), best.end(), std::back_inserter(drawn), has_it);
  const size_t known_tokens =
      std::min(place.num_blocks, most_reused / kPrefixBlockTokens) * kPrefixBlockTokens;
  // A node with the beginning cached may have that much more queued.
  const auto to_read = [&](const auto& node) {
    return node->load_tokens() + (has_it(node) ? 0 : known_tokens);
  };
  const auto chosen =
      *std::min_element(drawn.begin(), drawn.end(),
                        [&](const auto& a, const auto& b) { return to_read(a) < to_read(b); });
  if (KeepsPrefixes(chosen)) places_.Note(digests, chosen->address());
  return {chosen, has_it(chosen) ? known_tokens : 0};
}

void PrefillNodes::Ended(const Visit& visit, const absl::Status& outcome) {
  const bool ejected =
      visit.node->NoteEnd(visit.unread_tokens, visit.begun, outcome, MonotonicNow());
  if (!ejected) return;
  LogWarning(
      absl::StrCat("prefill node ", visit.node->address(), " is ejected: ", outcome.ToString()));
  metrics_.CountPrefillEjection();
  UpdateGauges();
  std::lock_guard lock(mutex_);
  next_round_ = absl::InfinitePast();  // to learn soon whether it is alive
  wake_.notify_all();
}

absl::Status PrefillNodes::CheckAnyAnswers() const {
  const absl::Time now = MonotonicNow();
  const Nodes known = nodes();
  const bool any = std::any_of(known.begin(), known.end(), [now](const auto& node) {
    const Standing standing = node->standing(now);
    return standing == Standing::kServing || standing == Standing::kEjected;
  });
  return any ? absl::OkStatus() : NoneCanServe(known, /*tried=*/{}, now);
}

absl::Status PrefillNodes::NoneCanServe(const Nodes& known, const std::set<std::string>& tried,
                                        absl::Time now) const {
  std::vector<std::string> faults;
  for (const auto& node : known) {
    const absl::Status health = tried.contains(node->address())
                                    ? absl::UnavailableError("it was tried")
                                    : node->health(now);
    faults.push_back(absl::StrCat(node->address(), ": ", health.message()));
  }
  if (known.empty()) {
    faults.push_back(absl::StrCat("no address found for ", absl::StrJoin(options_.targets, ",")));
  }
  return absl::UnavailableError(
      absl::StrCat("no prefill node can serve: ", absl::StrJoin(faults, "; ")));
}

std::vector<PrefillNodeState> PrefillNodes::Snapshot() const {
  const absl::Time now = MonotonicNow();
  std::vector<PrefillNodeState> states;
  for (const auto& node : nodes()) states.push_back(node->state(now));
  return states;
}

PrefillNodes::Nodes PrefillNodes::nodes() const {
  std::lock_guard lock(mutex_);
  Nodes all;
  for (const auto& [address, node] : nodes_) all.push_back(node);
  return all;
}

void PrefillNodes::UpdateGauges() {
  const absl::Time now = MonotonicNow();
  std::map<Standing, size_t> counts;
  for (const auto& node : nodes()) ++counts[node->standing(now)];
  for (const Standing standing : kStandings) {
    metrics_.SetPrefillNodes(PrefillNode::NameOf(standing), counts[standing]);
  }
}

void PrefillNodes::SetAddresses(const PrefillAddresses::ServerNames& names) {
  Nodes gone;  // destroyed without the lock: that ends connections
  std::lock_guard lock(mutex_);
  for (auto at = nodes_.begin(); at != nodes_.end();) {
    const bool stays = names.contains(at->first);
    if (!stays) {
      LogInfo(absl::StrCat("prefill node ", at->first, " is gone"));
      gone.push_back(std::move(at->second));
    }
    at = stays ? std::next(at) : nodes_.erase(at);
  }
  for (const auto& [address, name] : names) {
    if (nodes_.contains(address)) continue;
    PrefillConnection::Options connection = options_.connection;
    connection.server_name = name;
    nodes_[address] = std::make_shared<PrefillNode>(address, connection);
    next_round_ = absl::InfinitePast();
  }
  wake_.notify_all();
}

void PrefillNodes::CheckAgainAndAgain() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (MonotonicNow() >= next_round_) {
      next_round_ = MonotonicNow() + options_.check_interval;
      lock.unlock();
      EndOverdueChecks();
      StartChecks();
      lock.lock();
    }
    wake_.wait_for(lock, absl::ToChronoNanoseconds(next_round_ - MonotonicNow()), [this] {
      return stop_ || any_answered_ || next_round_ == absl::InfinitePast();
    });
    FinishAnswered(lock);
  }
  for (Check& check : checks_) check.context.TryCancel();
  while (!checks_.empty()) {
    wake_.wait(lock, [this] { return any_answered_; });
    FinishAnswered(lock);
  }
}

void PrefillNodes::StartChecks() {
  for (const auto& node : nodes()) {
    if (std::any_of(checks_.begin(), checks_.end(),
                    [&node](const Check& check) { return check.node == node; })) {
      continue;
    }
    const auto& channel = node->connection().grpc_channel();
    // gRPC's connection backoff would hide a node that has just come back.
    grpc::experimental::ChannelResetConnectionBackoff(channel.get());
    // gRPC orders the answer after this too, but the thread sanitizer does not see that.
    std::unique_lock lock(mutex_);
    Check& check = checks_.emplace_back(node);
    lock.unlock();
    check.context.set_deadline(absl::ToChronoTime(WallNow() + options_.check_timeout));
    // A serving node that refuses connections is gone; a silent one may return any moment.
    check.context.set_wait_for_ready(node->standing(MonotonicNow()) == Standing::kSilent);
    check.stub->async()->GetModelInfo(&check.context, &check.request, &check.response,
                                      [this, &check](const grpc::Status& status) {
                                        std::lock_guard lock(mutex_);
                                        check.status = status;
                                        check.answered = any_answered_ = true;
                                        wake_.notify_all();
                                      });
  }
}

void PrefillNodes::EndOverdueChecks() {
  for (Check& check : checks_) {
    if (MonotonicNow() - check.begun < options_.check_timeout + kTimersGrace) continue;
    check.overdue = true;
    check.context.TryCancel();
  }
}

void PrefillNodes::FinishAnswered(std::unique_lock<std::mutex>& lock) {
  std::list<Check> answered;
  any_answered_ = false;
  for (auto at = checks_.begin(); at != checks_.end();) {
    const auto next = std::next(at);
    if (at->answered) answered.splice(answered.end(), checks_, at);
    at = next;
  }
  if (answered.empty()) return;
  const bool cancelled = stop_;
  lock.unlock();
  if (!cancelled) {
    for (const Check& check : answered) NoteAnswer(check);
    UpdateGauges();
  }
  // Here, not on a gRPC thread: this may drop the last reference to a node and its connection.
  answered.clear();
  lock.lock();
}

absl::Status PrefillNodes::NoAnswer(const Check& check) const {
  const auto& channel = check.node->connection().grpc_channel();
  const std::string time = absl::FormatDuration(options_.check_timeout);
  if (channel->GetState(/*try_to_connect=*/false) == GRPC_CHANNEL_READY) {
    return absl::UnavailableError(absl::StrCat("it did not answer within ", time));
  }
  // gRPC tells the two apart only for calls that do not wait for the connection.
  const bool has_tls = options_.connection.credentials != nullptr;
  return absl::UnavailableError(absl::StrCat(
      "no connection to it within ", time,
      has_tls ? ": it is not there, or one of both refuses the other's certificate" : ""));
}

void PrefillNodes::NoteAnswer(const Check& check) {
  absl::Status status = FromGrpcStatus(check.status);
  const bool overdue = check.overdue && absl::IsCancelled(status);
  if (status.ok()) {
    status = CheckModelIdentity(check.response.model().identity(), options_.model_identity);
  } else if (overdue || absl::IsDeadlineExceeded(status)) {
    status = NoAnswer(check);
  } else if (absl::IsUnimplemented(status)) {
    status =
        absl::UnimplementedError("it is no prefill node; wanted the --listen of a kvship-prefill");
  }
  const absl::Time now = MonotonicNow();
  if (check.node->NoteCheck(status, check.response.load(), check.own_tokens, now)) {
    const PrefillNodeState state = check.node->state(now);
    const std::string line = absl::StrCat("prefill node ", state.address, ": ", state.health);
    if (state.serving) {
      LogInfo(line);
    } else {
      LogWarning(line);
    }
  }
  // On every such answer: a prompt may have been sent in between. Prompts at a node that drains, or
  // that refuses us from now on, go on.
  if (ReasonOf(status) == kNotReady) {
    check.node->EndAttempts(
        absl::UnavailableError(absl::StrCat("it says that it cannot serve: ", status.message())));
  } else if (overdue) {
    check.node->EndAttempts(status);
  }
}

}  // namespace kvship

// What a PrefixIndex knows beside its blocks, as bytes. Numbers are little-endian.
//
//   offset  size  what
//   0       4     "BKVP"
//   4       4     version, 1
//   8       16    the policy's name, filled with 0
//   24      8     what a block weighs on average
//   32      4     n, blocks
//   36      4     m, bytes of what the policy learned
//   40      16 n  of each block, in the order of their last uses: 8 the beginning of its name,
//                 4 the number of the request that used it last, from 0 on without gaps, 4 its uses
//   ...     m     what the policy learned
//   ...     4     CRC-32C of all before it
#include <algorithm>
#include <bit>
#include <cstring>
#include <tuple>
#include <utility>

#include "core/crc32c.h"
#include "core/prefix_index.h"

namespace blatam {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[4] = {'B', 'K', 'V', 'P'};
constexpr uint32_t kVersion = 1;
// So many uses of a block are repeated; policies tell no more apart.
constexpr uint32_t kMostRepeated = 8;

struct Head {
  char magic[4] = {};
  uint32_t version = kVersion;
  char policy[16] = {};
  uint64_t weight = 1;
  uint32_t blocks = 0;
  uint32_t learned = 0;
};
static_assert(sizeof(Head) == 40);

struct Known {
  uint64_t hash = 0;
  uint32_t request = 0;
  uint32_t uses = 0;
};
static_assert(sizeof(Known) == 16);

// As if every block had been used so often, each time all of them in the order of their last uses,
// a request at a time; and then had to leave.
void teach(Policy& policy, std::span<const Known> blocks) {
  policy.grow(blocks.size());
  uint32_t most = 0;
  for (const Known& block : blocks) most = std::max(most, block.uses);
  for (uint32_t round = most; round > 0; --round) {
    for (size_t at = 0; at < blocks.size(); ++at) {
      const Known& block = blocks[at];
      if (at == 0 || block.request != blocks[at - 1].request) policy.begin_request(block.hash);
      const auto slot = static_cast<Slot>(at);
      if (block.uses == round) policy.insert(slot, {.hash = block.hash, .size = 1, .cost = 1});
      if (block.uses > round) policy.hit(slot);
    }
  }
  const Pins none;
  while (policy.evict(none, nullptr) != kNoSlot) {
  }
}

const char* wrong_with(std::span<const uint8_t> bytes, Head& head) noexcept {
  if (bytes.size() < sizeof head) return "it is too short";
  std::memcpy(&head, bytes.data(), sizeof head);
  if (std::memcmp(head.magic, kMagic, sizeof kMagic) != 0) return "it is not what an index knew";
  if (head.version != kVersion) return "its version is not 1";
  const uint64_t size = sizeof head + uint64_t{head.blocks} * sizeof(Known) + head.learned;
  uint32_t sum;
  if (bytes.size() != size + sizeof sum) return "its length is wrong: it was cut or added to";
  std::memcpy(&sum, bytes.data() + size, sizeof sum);
  if (sum != crc32c(0, bytes.data(), size)) return "its checksum is wrong: it is damaged";
  return head.weight == 0 ? "its blocks weigh nothing" : nullptr;
}

}  // namespace

std::vector<uint8_t> PrefixIndex::save(size_t most) const {
  std::vector<Slot> slots;
  for (size_t slot = 0; slot < nodes_.size(); ++slot) {
    if (nodes_[slot].uses != 0 && !nodes_[slot].planned) slots.push_back(static_cast<Slot>(slot));
  }
  std::sort(slots.begin(), slots.end(), [&](Slot one, Slot two) {
    return std::tuple(nodes_[one].used_at, one) < std::tuple(nodes_[two].used_at, two);
  });
  if (slots.size() > most)
    slots.erase(slots.begin(), slots.end() - static_cast<std::ptrdiff_t>(most));

  std::vector<Known> blocks(slots.size());
  for (size_t at = 0; at < slots.size(); ++at) {
    const Node& node = nodes_[slots[at]];
    blocks[at] = {.hash = node.name.prefix(), .uses = node.uses};
    if (at == 0) continue;
    blocks[at].request =
        blocks[at - 1].request + (node.used_at != nodes_[slots[at - 1]].used_at ? 1 : 0);
  }
  const std::vector<uint8_t> learned = policy_->save();
  Head head;
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  std::memcpy(head.policy, policy_name_.data(), std::min(policy_name_.size(), sizeof head.policy));
  head.weight = entries() == 0 ? 1 : std::max<uint64_t>(1, bytes_ / entries());
  head.blocks = static_cast<uint32_t>(blocks.size());
  head.learned = static_cast<uint32_t>(learned.size());

  std::vector<uint8_t> bytes;
  const auto put = [&bytes](const void* from, size_t size) {
    const auto* const first = static_cast<const uint8_t*>(from);
    bytes.insert(bytes.end(), first, first + size);
  };
  put(&head, sizeof head);
  put(blocks.data(), blocks.size() * sizeof(Known));
  put(learned.data(), learned.size());
  const uint32_t sum = crc32c(0, bytes.data(), bytes.size());
  put(&sum, sizeof sum);
  return bytes;
}

const char* PrefixIndex::restore(std::span<const uint8_t> bytes) {
  Head head;
  if (const char* wrong = wrong_with(bytes, head)) return wrong;
  if (requests_ != 0 || slots_ != 0) return "something has been in this index";

  std::vector<Known> blocks(head.blocks);
  if (!blocks.empty()) {
    std::memcpy(blocks.data(), bytes.data() + sizeof head, blocks.size() * sizeof(Known));
  }
  const uint64_t fit = std::max<uint64_t>(1, capacity_bytes_ / head.weight);
  if (blocks.size() > fit) {  // there was more room
    blocks.erase(blocks.begin(), blocks.end() - static_cast<std::ptrdiff_t>(fit));
  }
  std::unordered_map<uint64_t, uint32_t> known;
  for (Known& block : blocks) {
    block.uses = std::clamp((block.uses + 1) / 2, uint32_t{1}, kMostRepeated);
    known[block.hash] = block.uses;
  }
  std::unique_ptr<Policy> policy = new_policy();
  policy->set_capacity(fit);
  teach(*policy, blocks);
  const std::string_view name(head.policy, strnlen(head.policy, sizeof head.policy));
  if (name == policy_name_ && head.learned != 0) {
    const auto learned = bytes.last(head.learned + sizeof(uint32_t)).first(head.learned);
    if (const char* wrong = policy->restore(learned)) return wrong;
  }
  policy_ = std::move(policy);
  known_ = std::move(known);
  told_ = fit;
  return nullptr;
}

}  // namespace blatam

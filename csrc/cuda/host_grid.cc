// The grid as loops: every warp of every payload, one after the other, on the calling thread.
#include <string.h>

#include "cuda/grid.h"

namespace blatam::cuda {
namespace {

struct HostGrid {
  template <class Lanes, class Cell>
  int store(const Plan& plan) const {
    return run<Lanes>(
        plan, true,
        [](Warp& warp, const Plan& all, uint32_t payload, uint32_t item) {
          Lanes::template store<Cell>(warp, all, payload, item);
        },
        [](Warp& warp, const Plan& all, uint32_t payload) {
          Settle<Lanes, Cell>::store(warp, all, payload);
        });
  }
  template <class Lanes, class Cell>
  int fetch(const Plan& plan) const {
    return run<Lanes>(
        plan, false,
        [](Warp& warp, const Plan& all, uint32_t payload, uint32_t item) {
          Lanes::template fetch<Cell>(warp, all, payload, item);
        },
        [](Warp& warp, const Plan& all, uint32_t payload) {
          Settle<Lanes, Cell>::fetch(warp, all, payload);
        });
  }

 private:
  template <class Lanes, class Rows, class Settle>
  static int run(const Plan& plan, bool /*store*/, const Rows& rows, const Settle& settle) {
    alignas(16) uint8_t scratch[Lanes::kScratch];
    const uint32_t payloads = plan.job.blocks * plan.job.tensors;
    memset(plan.job.faults, 0, payloads * sizeof(uint32_t));
    for (uint32_t payload = 0; payload < payloads; ++payload) {
      Warp warp(scratch);
      for (uint32_t item = 0; item < plan.items + plan.tail_items; ++item)
        rows(warp, plan, payload, item);
      settle(warp, plan, payload);
    }
    return kOk;
  }
};

int run(const Job& job, bool store) {
  Plan plan;
  if (const int code = make_plan(job, &plan); code != kOk) return code;
  if (job.blocks == 0 || job.tensors == 0) return kOk;
  return run_plan(HostGrid{}, plan, store);
}

template <class Cell>
void fill(uint16_t* patterns, uint8_t* bytes) {
  for (uint32_t i = 0; i < 256; ++i) patterns[i] = Cell::pattern(static_cast<uint8_t>(i));
  for (uint32_t i = 0; i < 65536; ++i) bytes[i] = Cell::bits(static_cast<uint16_t>(i));
}

}  // namespace

extern "C" {

int blatam_paged_store(const Job* job) { return run(*job, true); }
int blatam_paged_fetch(const Job* job) { return run(*job, false); }

bool blatam_paged_fp8(Element element, uint16_t* patterns, uint8_t* bytes) {
  if (element == Element::fp8_e4m3) fill<CellFp8>(patterns, bytes);
  if (element == Element::fp8_e5m2) fill<CellE5m2>(patterns, bytes);
  return element == Element::fp8_e4m3 || element == Element::fp8_e5m2;
}

}  // extern "C"

}  // namespace blatam::cuda

// Which algorithm a job needs, for whatever runs it: a grid has
//   template <class Scheme, class Cell> int store(const Plan&) const
//   template <class Scheme, class Cell> int fetch(const Plan&) const
// that run its rows and then settle its payloads. To add a scheme: a file of lanes, a line here and
// one in plan.cc. Internal to the file that includes it.
#pragma once

#include "cuda/channel_lanes.h"
#include "cuda/exp4_lanes.h"
#include "cuda/levels_lanes.h"
#include "cuda/raw_lanes.h"
#include "cuda/rotated_lanes.h"
#include "cuda/settle.h"
#include "cuda/token_lanes.h"

namespace blatam::cuda {
namespace {

template <class Lanes, class Grid>
int run_scheme(const Grid& grid, const Plan& plan, bool store) {
  switch (plan.job.element) {
    case Element::bf16:
      return store ? grid.template store<Lanes, CellBf16>(plan)
                   : grid.template fetch<Lanes, CellBf16>(plan);
    case Element::fp16:
      return store ? grid.template store<Lanes, CellFp16>(plan)
                   : grid.template fetch<Lanes, CellFp16>(plan);
    case Element::fp8_e4m3:
      return store ? grid.template store<Lanes, CellFp8>(plan)
                   : grid.template fetch<Lanes, CellFp8>(plan);
    case Element::fp8_e5m2:
      return store ? grid.template store<Lanes, CellE5m2>(plan)
                   : grid.template fetch<Lanes, CellE5m2>(plan);
  }
  return kUnsupported;
}

template <class Grid>
int run_plan(const Grid& grid, const Plan& plan, bool store) {
  switch (plan.job.scheme) {
    case Scheme::raw:
      return run_scheme<Raw>(grid, plan, store);
    case Scheme::token8:
      return run_scheme<Token<8>>(grid, plan, store);
    case Scheme::token4:
      return run_scheme<Token<4>>(grid, plan, store);
    case Scheme::channel8:
      return run_scheme<Channel<8>>(grid, plan, store);
    case Scheme::channel4:
      return run_scheme<Channel<4>>(grid, plan, store);
    case Scheme::rotated4:
      return run_scheme<RotatedRows>(grid, plan, store);
    case Scheme::levels4:
      return run_scheme<Levels<4>>(grid, plan, store);
    case Scheme::levels3:
      return run_scheme<Levels<3>>(grid, plan, store);
    case Scheme::exp4:
      return run_scheme<Exp4>(grid, plan, store);
  }
  return kUnsupported;
}

}  // namespace
}  // namespace blatam::cuda

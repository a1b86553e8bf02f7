// linear: out (+)= activation(x @ weight^T + bias), and linear_argmax, which keeps the largest of each row's sums instead.
#include "pagecli/linear/linear.h"

#include "experts/grouped_linear.h"
#include "linear_argmax.h"
#include "linear_epilogue.h"
#include "linear_run.h"
#include "masked_argmax.h"
#include "pruned_argmax.h"
#include "tiles/handed_over.h"

namespace pagecli::PAGECLI_ISA {

void linear(const LinearArgs& a) {
    Plan plan = plan_of(a, finish_function(a.activation));
    if (a.hands_over || a.is_gated) plan.finish = hand_over_function(plan.x_type, a);
    run(plan);
}

void grouped_linear(const GroupedLinearArgs& a) { run_grouped(a); }

void linear_argmax(const LinearArgmaxArgs& a) { argmax_of_all(a); }

void pruned_argmax(const PrunedArgmaxArgs& a) { argmax_by_bounds(a); }

void masked_argmax(const MaskedArgmaxArgs& a) { argmax_of_masked(a); }

}  // namespace pagecli::PAGECLI_ISA

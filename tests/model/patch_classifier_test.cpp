// The patch classifier: derivatives from end to end in double, images apart from each other, only what experts take
// counts, honest facts and refusals.
//
// B images of C channels, H x W pixels, S pixels a side of a patch, P patches an image, K classes.
#include "collegium/kernels/flops.h"
#include "collegium/model/image_model.h"
#include "tests/support/gradcheck.h"
#include "tests/support/routing.h"

namespace {

using namespace collegium;
using namespace collegium::model;
using namespace collegium::test;

constexpr int64_t kHeight = 4, kWide = 6, kSide = 2, kPatches = 6, kClasses = 3;

Table pmoe(int64_t l) {
  return table({{"name", "routed"},
                {"n_experts", 2},
                {"d_expert", 3},
                {"expert", table({{"name", "gelu"}})},
                {"router", table({{"name", "patch_choice"}, {"l", l}})}});
}

Table single_network() {
  return table({{"name", "dense"}, {"d_hidden", 6}, {"expert", table({{"name", "gelu"}})}});
}

Named classifier(const Table& moe) {
  return {.name = "patch_classifier",
          .fields = table({{"patch", kSide}, {"d_model", 5}, {"init_std", 0.5}, {"moe", moe}})};
}

std::unique_ptr<ImageModel> make_classifier(const Named& named, at::ScalarType type = at::kDouble) {
  return find(image_models(), named, "image model")
      .make(named, {.n_channels = 2,
                    .height = kHeight,
                    .width = kWide,
                    .n_classes = kClasses,
                    .random = Random(1),
                    .options = type});
}

Tensor pictures(int64_t B, uint64_t seed = 3) {
  return numbers(Random(seed), {B, 2, kHeight, kWide}, -1, 1, at::kDouble);
}

ModelContext in_double() {
  return {.compute = at::kDouble};
}

}  // namespace

TEST_CASE_FIXTURE(OneThread, "gradient of the classifier's loss by every parameter and pixel") {
  for (const auto& moe : {pmoe(2), single_network()}) {
    const auto named = classifier(moe);
    const auto model = make_classifier(named);
    auto image_BCHW = pictures(2).requires_grad_(true);
    std::vector<Variable> variables = {{"image", image_BCHW}};
    for (const auto& p : parameters_of(*model)) variables.push_back({p.name, *p.tensor});
    const auto label_B = at::tensor(std::vector<int64_t>{2, 0});
    const auto report = check_gradients(
        [&] {
          const auto out = model->forward(image_BCHW, in_double());
          Evaluated e{at::cross_entropy_loss(model->logits(out.hidden_ND), label_B), {}};
          if (!out.decisions.empty()) e.discrete = at::stack({out.decisions[0].token_R(), out.decisions[0].expert_R()});
          return e;
        },
        variables);
    CHECK(report.is_smooth);
    CHECK_MESSAGE(report.worst < 1e-6, report.where);
    CHECK(report.largest > 1e-2);
  }
}

TEST_CASE_FIXTURE(OneThread, "images do not see each other") {
  const auto named = classifier(pmoe(2));
  const auto model = make_classifier(named);
  const auto image_BCHW = pictures(3);
  const auto all = model->forward(image_BCHW, in_double()).hidden_ND;
  CHECK((all.sizes() == at::IntArrayRef{3, 5}));
  for (int64_t b = 0; b < 3; ++b)
    CHECK(difference(model->forward(image_BCHW.slice(0, b, b + 1), in_double()).hidden_ND, all.slice(0, b, b + 1)) <
          1e-12);
}

TEST_CASE_FIXTURE(OneThread, "a patch that no expert takes changes nothing") {
  const auto named = classifier(pmoe(1));
  const auto model = make_classifier(named);
  const auto image_BCHW = pictures(1);
  const auto before = model->forward(image_BCHW, in_double());
  const auto taken = ints(before.decisions.at(0).token_R());
  int64_t changed = 0;
  for (int64_t p = 0; p < kPatches; ++p) {
    auto other = image_BCHW.clone();
    // Smaller, so that nobody starts to want it: an expert's logit is linear in the patch.
    other.slice(2, p / 3 * kSide, (p / 3 + 1) * kSide).slice(3, p % 3 * kSide, (p % 3 + 1) * kSide).mul_(0.999);
    const auto after = model->forward(other, in_double());
    REQUIRE(ints(after.decisions.at(0).token_R()) == taken);
    const bool is_taken = std::find(taken.begin(), taken.end(), p) != taken.end();
    CHECK((difference(after.hidden_ND, before.hidden_ND) > 0) == is_taken);
    changed += is_taken;
  }
  CHECK((changed > 0 && changed < kPatches));
}

TEST_CASE_FIXTURE(OneThread, "facts count what is there") {
  const auto mixed = classifier(pmoe(2)), dense = classifier(single_network());
  const auto a = make_classifier(mixed)->facts(0), b = make_classifier(dense)->facts(0);
  const double filters = 5 * 2 * kSide * kSide, head = kClasses * 5, norm = 5, network = 2 * 6 * 5, router = 2 * 5;
  CHECK(a.parameters_total == filters + head + norm + network + router);
  CHECK(b.parameters_total == filters + head + norm + network);
  // Two experts, two of six patches each: a patch meets 2 / 3 of an expert on average.
  CHECK(a.parameters_active == doctest::Approx(filters + head + norm + router + network / 2 * 2 / 3));
  CHECK(b.parameters_active == b.parameters_total);
  CHECK(a.moe_layers == std::vector<int64_t>{0});
  CHECK(a.n_experts == std::vector<int64_t>{2});
  CHECK(b.moe_layers.empty());
}

TEST_CASE_FIXTURE(OneThread, "the work a classifier says it does is the work it does, within a twentieth") {
  const auto soft = table({{"name", "soft"}, {"n_experts", 2}, {"d_expert", 3}, {"slots", 2}});
  for (const auto& moe : {pmoe(2), single_network(), soft}) {
    const auto named = classifier(moe);
    const at::NoGradGuard no_grad;
    const auto model = make_classifier(named);
    const auto facts = model->facts(0);
    const kernels::FlopCounter counter;
    model->logits(model->forward(pictures(4), in_double()).hidden_ND);
    CHECK(facts.flops_per_token == doctest::Approx(counter.flops() / (4 * kPatches)).epsilon(0.05));
    REQUIRE(facts.costs.size() == 2);
    CHECK(facts.costs[0].parameters_total + facts.costs[1].parameters_total == facts.parameters_total);
    CHECK(facts.costs[0].n_experts == (facts.n_experts.empty() ? 0 : facts.n_experts[0]));
  }
}

TEST_CASE_FIXTURE(OneThread, "what cannot be is refused") {
  auto seven = classifier(pmoe(7));
  CHECK(complaint([&] { make_classifier(seven); }).find("l = 7 is more than the 6 patches") != std::string::npos);
  auto odd = classifier(pmoe(2));
  odd.fields.set("patch", 4);
  CHECK(complaint([&] { make_classifier(odd); }).find("4 x 6 pixels do not divide into patches of 4 x 4") !=
        std::string::npos);
  auto hashed = classifier(table({{"name", "routed"}, {"router", table({{"name", "hash"}})}}));
  CHECK(complaint([&] { make_classifier(hashed); }).find("its router needs token ids") != std::string::npos);
  const auto model = make_classifier(classifier(pmoe(2)));
  CHECK(complaint([&] {
          model->forward(at::zeros({1, 1, kHeight, kWide}), in_double());
        }).find("images must be [images, 2, 4, 6]") != std::string::npos);
}

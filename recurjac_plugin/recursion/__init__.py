"""RecurJac: bounds of Jacobians from gains and derivative ranges.

A method of this package is three choices that do not depend on each other:

**Where the pre-activation bounds come from**: the prefix of its name, one of the host's methods (`IBP+RecurJac`,
`alpha-CROWN+RecurJac`, ...), CROWN if there is none. They decide the derivative ranges, and with them which neurons are
undetermined (`recurjac_plugin.gains`). Tighter ones make every rule tighter.

**What lies above a product ``d y`` of an uncertain derivative and an uncertain gradient**: the rule, which is the rest
of the name.

======================  ==========================================  ==========================================
name                    what is taken                               where
======================  ==========================================  ==========================================
`Fast-Lip`              the largest product                         `fast_lip.IntervalArithmetic`
`RecurJac`              a line if the sign of y is known            `recurjac_plugin.passes.rules`
`RecurJac-Linear`       a line always                               `recurjac_plugin.passes.rules`
`RecurJac-McCormick`    a plane in y and the pre-activation where   `recurjac_plugin.passes.mccormick`; or affine
                        the derivative is smooth, a line            forms, `recurjac_plugin.passes.affine`; with
                        elsewhere                                   the lines of `RecurJac-Linear`, the tighter
======================  ==========================================  ==========================================

`RecurJac-Optimized` takes the same lines and planes as `RecurJac-McCormick`, on pre-activation bounds that are refined
by optimised ones (`recurjac_plugin.preactivations.refined`), and keeps the tighter of both results.

No name, or `auto`, is `RecurJac-McCormick` or `RecurJac-Linear`, region by region (`recurjac_plugin.jacobian.planes`).

**In which order the layers are processed**: the arguments `order` and `shift`.

===============================  =========================================  ================================
order                            gradients that are bounded on the way      where
===============================  =========================================  ================================
`order="backward"`               of the rows, from the output back          `backward.BackwardOrder`
`order="forward"`                by the input, from the input on            `forward.ForwardOrder`
`order="forward"`, `shift=1`     by the first layer, which is then joined   `forward.ShiftedForwardOrder`
`order="both"`                   both, and the tighter of each two bounds   `recurjac_plugin.jacobian.analysis`
===============================  =========================================  ================================

Every rule goes with every order, but the shifted one, which has no planes; `Fast-Lip` has both directions in one class.
All orders answer the same two questions, `order.Order`. Sums over several rows are bounded in backward order alone
(`sums`).
"""

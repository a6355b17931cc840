"""The core's own parts, listed as a plug-in lists its own."""

from core.parts.registry import (
    Plugin,
    dataset,
    grid,
    guidance,
    metric,
    network,
    objective,
    operator,
    parameterization,
    posterior,
    process,
    sampler,
    task,
    times,
    weighting,
)

PLUGIN = Plugin(
    name="core",
    summary="Processes, parameterizations, samplers and networks that every plug-in shares.",
    parts=(
        dataset("blank", "core.generate:Blank", "Sample shapes and classes; no data"),
        dataset("points", "core.points:Points", "Points of the plane: ring, grid, spirals, ..."),
        grid("custom", "core.sampler.grids:custom", "Exactly the given levels"),
        grid(
            "discrete",
            "core.sampler.grids:discrete",
            "Leading, trailing, linspace timesteps of a chain",
        ),
        grid("karras", "core.sampler.grids:karras", "Karras's rho schedule of sigma (EDM)"),
        grid("uniform_log_snr", "core.sampler.grids:uniform_log_snr", "Uniform in log-SNR"),
        grid("uniform_time", "core.sampler.grids:uniform_time", "Uniform in time"),
        guidance("autoguidance", "core.model:autoguidance", "Autoguidance by a weaker model"),
        guidance(
            "classifier",
            "core.denoiser.guidance:classifier",
            "Classifier guidance, gradient of log p(c | x_t)",
            inputs=("log_prob",),
        ),
        guidance(
            "classifier_free",
            "core.denoiser.guidance:classifier_free",
            "Classifier-free guidance (CFG)",
            version="2",
        ),
        guidance("clip", "core.denoiser.guidance:clip", "Clip x0 to the range of the data"),
        guidance(
            "dynamic_threshold",
            "core.denoiser.guidance:dynamic_threshold",
            "Dynamic thresholding of x0 (Imagen)",
        ),
        guidance(
            "reward",
            "core.denoiser.guidance:reward",
            "Gradient of a reward of x0",
            inputs=("reward",),
        ),
        metric("psnr", "core.results.metrics:psnr", "Peak signal-to-noise ratio, dB"),
        metric(
            "ssim",
            "core.results.metrics:ssim",
            "Structural similarity, 11x11 Gaussian window",
            needs=("kornia",),
        ),
        network("mlp", "core.network.mlp:MLP", "Residual MLP for vectors and points"),
        network(
            "predict_refine",
            "core.network.predict_refine:PredictRefine",
            "An estimate from the condition, a network for what it lacks",
        ),
        network("transformer", "core.network.transformer:Transformer", "DiT over patches"),
        network("unet", "core.network.unet:UNet", "U-Net in 1, 2 or 3 dimensions (ADM, DDPM)"),
        objective(
            "denoising", "core.objective.denoising:Denoising", "Weighted denoising loss (eps error)"
        ),
        objective("hybrid", "core.objective.hybrid:Hybrid", "L_hybrid, learned variances (iDDPM)"),
        objective(
            "predict_refine",
            "core.objective.predict_refine:PredictRefine",
            "Squared error of an estimate, denoising of what it lacks",
        ),
        operator("average", "core.inverse.operators:Average", "Average pooling over square blocks"),
        parameterization("edm", "core.denoiser.parameterization:edm", "EDM preconditioning"),
        parameterization("eps", "core.denoiser.parameterization:eps", "The noise (DDPM)"),
        parameterization("flow", "core.denoiser.parameterization:flow", "Velocity eps - x0"),
        parameterization("score", "core.denoiser.parameterization:score", "Gradient of log p_t"),
        parameterization("v", "core.denoiser.parameterization:v", "Velocity alpha eps - sigma x0"),
        parameterization("x0", "core.denoiser.parameterization:x0", "The clean sample"),
        posterior(
            "ddnm", "core.inverse.posterior:ddnm", "DDNM+, range-space of x0 from the measurement"
        ),
        posterior("dds", "core.inverse.posterior:dds", "DDS, conjugate gradients on x0"),
        posterior("diffpir", "core.inverse.posterior:diffpir", "DiffPIR, proximal step on x0"),
        posterior("dps", "core.inverse.posterior:dps", "DPS, gradient of the residual"),
        posterior(
            "ilvr", "core.inverse.posterior:ilvr", "ILVR, replaced by the noised measurement"
        ),
        posterior("pigdm", "core.inverse.posterior:pigdm", "PiGDM, exact on Gaussian data"),
        posterior("projection", "core.inverse.posterior:projection", "Score-SDE's projection"),
        posterior(
            "repaint", "core.inverse.posterior:repaint", "RePaint, ILVR with resampling jumps"
        ),
        process("beta_table", "core.process.schedules:beta_table", "Discrete DDPM betas"),
        process("cosine_table", "core.process.schedules:cosine_table", "Cosine betas, discrete"),
        process("custom_table", "core.process.schedules:custom_table", "Any table of betas"),
        process("edm", "core.process.schedules:edm", "Variance exploding, sigma(t) = t"),
        process("flow", "core.process.schedules:flow", "Rectified flow, straight lines"),
        process(
            "shifted",
            "core.process.schedules:shifted",
            "Timestep shift of another process's log-SNR",
        ),
        process("sub_vp", "core.process.schedules:sub_vp", "Sub-VP SDE"),
        process("ve", "core.process.schedules:ve", "Variance exploding, geometric (VE-SDE)"),
        process("vp_cosine", "core.process.schedules:vp_cosine", "Cosine schedule (iDDPM)"),
        process("vp_linear", "core.process.schedules:vp_linear", "Linear beta(t) (DDPM, VP-SDE)"),
        process(
            "zero_terminal_snr",
            "core.process.schedules:zero_terminal_snr",
            "Zero terminal SNR of another process",
        ),
        sampler(
            "adaptive_sde",
            "core.sampler.adaptive_sde:AdaptiveSDE",
            "Reverse SDE with error control, adaptive steps",
        ),
        sampler("ancestral", "core.sampler.ancestral:Ancestral", "Ancestral sampling (DDPM)"),
        sampler("churn", "core.sampler.runge_kutta:Churn", "EDM's stochastic sampler"),
        sampler("ddim", "core.sampler.ancestral:DDIM", "Order 1; eta adds noise"),
        sampler("dopri5", "core.sampler.adaptive:DormandPrince", "Dormand-Prince, adaptive steps"),
        sampler(
            "euler_maruyama", "core.sampler.ancestral:EulerMaruyama", "Order 1 on the reverse SDE"
        ),
        sampler(
            "graded_start",
            "core.sampler.composed:GradedStart",
            "Multistep rules that keep their order from the middle",
        ),
        sampler(
            "heun", "core.sampler.runge_kutta:Heun", "EDM's Heun rule, order 2, two calls a step"
        ),
        sampler(
            "linear_multistep", "core.sampler.linear_multistep:LinearMultistep", "LMS, order 1 to 4"
        ),
        sampler(
            "multistep", "core.sampler.exponential:Multistep", "DPM-Solver++/DEIS, order 1 to 4"
        ),
        sampler(
            "predictor_corrector",
            "core.sampler.composed:PredictorCorrector",
            "Any solver with Langevin corrector steps",
        ),
        sampler("sa_solver", "core.sampler.unipc:SASolver", "Stochastic Adams (SA-Solver)"),
        sampler("singlestep", "core.sampler.exponential:Singlestep", "DPM-Solver(++) 2S and 3S"),
        sampler(
            "stochastic_then_ode",
            "core.sampler.composed:StochasticThenODE",
            "SDE solver at high noise, ODE solver at low",
        ),
        sampler("unipc", "core.sampler.unipc:UniPC", "Predictor-corrector, one call a step"),
        task("generate", "core.generate:Generate", "Unconditional or class-conditional samples"),
        task("points", "core.points:Plane", "Points of the plane, free or of a class"),
        times(
            "importance",
            "core.objective.times:importance",
            "Importance sampling of t by the weighting",
        ),
        times("log_normal", "core.objective.times:log_normal", "Log sigma normal (EDM)"),
        times("logit_normal", "core.objective.times:logit_normal", "Logit of time normal (SD3)"),
        times(
            "loss_aware",
            "core.objective.times:LossAware",
            "Importance sampling of t by past losses (iDDPM)",
        ),
        times("stratified", "core.objective.times:stratified", "Uniform, one per stratum"),
        times("uniform", "core.objective.times:uniform", "Uniform in time"),
        weighting("edm", "core.objective.weighting:edm", "Unit loss at initialisation (EDM)"),
        weighting(
            "likelihood", "core.objective.weighting:likelihood", "Maximum likelihood: the ELBO"
        ),
        weighting("min_snr", "core.objective.weighting:min_snr", "min(SNR, gamma) of the x0 error"),
        weighting("p2", "core.objective.weighting:p2", "1/(k + SNR)^gamma (P2)"),
        weighting(
            "rectified_flow",
            "core.objective.weighting:rectified_flow",
            "Velocity error (rectified flow)",
        ),
        weighting("sigmoid", "core.objective.weighting:sigmoid", "Sigmoid weighting of the ELBO"),
        weighting("simple", "core.objective.weighting:simple", "L_simple: the eps error"),
        weighting(
            "truncated_snr", "core.objective.weighting:truncated_snr", "max(SNR, 1) of the x0 error"
        ),
        weighting("v", "core.objective.weighting:v", "The v error: 1 + 1/SNR"),
    ),
)

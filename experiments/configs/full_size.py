"""The configs whose step is counted at its full size, unless others are named."""

CONFIGS = (
    *(f"imagenet_resnet50_{method}" for method in ("sgd", "sam", "k_sam_half")),
    *(f"imagenet_vit_s_16_{method}" for method in ("adamw", "sam", "k_sam_half")),
    *(f"glue_sst2_bert_base_{method}" for method in ("adamw", "sam", "k_sam")),
)

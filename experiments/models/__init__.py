"""Flax NNX models, and the pure functions that training needs of them."""

from experiments.models.cnn import CNN as CNN
from experiments.models.mlp import MLP as MLP
from experiments.models.pure import PureModel as PureModel
from experiments.models.pure import pure as pure
from experiments.models.pyramidnet import PyramidNet as PyramidNet
from experiments.models.resnet18 import ResNet as ResNet
from experiments.models.transformer import Transformer as Transformer
from experiments.models.vgg import VGG as VGG
from experiments.models.vit import ViT as ViT
from experiments.models.wide_resnet import WideResNet as WideResNet

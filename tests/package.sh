#!/bin/sh
# Each file, the wheel and the sdist, into an empty environment, and a first step with it.
# Usage: package.sh PYTHON ENVIRONMENT FILE...
set -eu
python=$1 environment=$2
shift 2
step='
import importlib.metadata, pathlib
import jax.numpy as jnp, optax, ksam_jax
folder = pathlib.Path(ksam_jax.__file__).parent
assert "site-packages" in str(folder), folder
assert (folder / "py.typed").exists()
assert importlib.metadata.version("ksam_jax") == ksam_jax.__version__
tx = optax.chain(ksam_jax.k_sam(rho=0.05, k=1), optax.sgd(0.1))
w, batch = jnp.ones(2), jnp.array([[1.0, 2.0], [3.0, 4.0]])
loss_fn = lambda w, batch: (batch @ w) ** 2
updates, state = tx.update(None, tx.init(w), w, loss_fn=loss_fn, batch=batch)
print(f"ksam_jax {ksam_jax.__version__}: a step with", updates)
'
for file in "$@"; do
    case $file in
        *.whl) names=$("$python" -m zipfile --list "$file" | tail -n +2 | cut -d' ' -f1) ;;
        *) names=$(tar -tzf "$file" | cut -d/ -f2-) ;;
    esac
    others=$(printf '%s\n' "$names" | grep -vE '^(ksam_jax/|ksam_jax-[^/]*\.dist-info/|(README\.md|LICENSE|CHANGELOG\.md|pyproject\.toml|PKG-INFO|\.gitignore)$|$)' || true)
    if [ -n "$others" ]; then
        printf '%s has more than the library:\n%s\n' "$file" "$others" >&2
        exit 1
    fi
    rm -rf "$environment"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check "$file"
    (cd / && "$OLDPWD/$environment/bin/python" -W error -c "$step")
done

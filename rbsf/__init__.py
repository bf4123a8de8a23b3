"""The RBCN core: binary convolutions, their training by Algorithm 1, networks. Knows no dataset, no tracker."""

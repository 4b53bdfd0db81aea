"""Where versions run: `shared` among the gateways, or `dedicated`, an application of their own."""
